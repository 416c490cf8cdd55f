//! Credentials from the output of a command, such as that of a secret manager.
//!
//! [`CommandSource`] holds the command line and starts a thread for each fetch. A fetch therefore
//! needs no tokio runtime, and a runtime can shut down during a fetch. The thread does the
//! following:
//!
//! 1. It starts the command as the leader of its own process group, with a pipe as stdout and
//!    without stdin and stderr.
//! 2. Every few milliseconds, it reads the available output without waiting for more. Then it
//!    checks whether the command has exited, its time limit has passed, it printed too much, or the
//!    caller has dropped the fetch.
//! 3. It kills the process group, and only then collects the exit status of the leader. Until then
//!    the kernel does not reuse the group's number, so no other group can be killed. If other code
//!    of this process has collected the status, nothing is killed.
//!
//! Output counts if it is in the pipe when the command exits. The thread does not wait for a
//! process that the command leaves behind, even if that holds the pipe open.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{PathBuf, absolute};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::{Mutex, oneshot};
use zeroize::Zeroizing;

use super::CredentialSource;
use crate::credential::{Credential, CredentialKind, InvalidCredential, InvalidCredentialReason};
use crate::error::BoxError;
use crate::organization::OrganizationId;

/// The maximum length of the output.
const MAX_LEN: usize = 8 * 1024;
/// The longest pause between two checks of a command. The first one is a millisecond, and each is
/// twice the previous one.
const PAUSE: Duration = Duration::from_millis(16);

/// Runs a command that prints a credential, such as that of a secret manager.
///
/// The store runs it when it [loads](crate::CredentialStore::load), when it polls
/// ([`refresh_every`](crate::Loader::refresh_every); 60 seconds is suitable for most secret
/// managers) and after a 401. It requires feature `command`, and Unix.
///
/// # The command
///
/// The program is looked up in `PATH` and gets its arguments unchanged. There is no shell, so
/// nothing is expanded or quoted. Its stdin is empty and its stderr is discarded. It inherits the
/// environment, except for variables whose names start with `ANYREACH_`; [`env`](Self::env) adds
/// variables.
///
/// It runs in its own process group. The group is killed with `SIGKILL`, and the program reaped,
/// when the program has exited, when its time limit has passed, and when the caller drops the
/// fetch. A process that leaves the group, as a daemon such as `gpg-agent` does, is not killed, nor
/// is one of another user, such as one that `sudo` starts. If this process is killed, the command
/// keeps running. Fetches of one source run one after the other.
///
/// # The output
///
/// The command has to print one credential to stdout, at most 8 KiB with the ASCII whitespace
/// around it, and to exit with status 0. The output of a program that fails is not used. No output
/// is shown, and it is read into memory that is wiped.
///
/// # Secret managers
///
/// The program and the arguments for each manager, without the quotes that a shell would need. The
/// repository tests those of OpenBao, of pass and, against an emulator, of AWS:
///
/// | manager | program and arguments |
/// |---|---|
/// | 1Password | `op read op://vault/anyreach/token` |
/// | GNOME Keyring | `secret-tool lookup service anyreach` |
/// | Google Cloud | `gcloud secrets versions access latest --secret=anyreach` |
/// | HashiCorp Vault | `vault kv get -field=token secret/anyreach` |
/// | OpenBao | `bao kv get -field=token secret/anyreach` |
/// | pass | `pass show anyreach/token` |
///
/// For AWS Secrets Manager:
///
/// ```text
/// aws secretsmanager get-secret-value --secret-id anyreach --query SecretString --output text
/// ```
///
/// For Azure Key Vault:
///
/// ```text
/// az keyvault secret show --vault-name example --name anyreach --query value --output tsv
/// ```
///
/// For a Kubernetes secret:
///
/// ```text
/// kubectl get secret anyreach --output go-template={{.data.token|base64decode}}
/// ```
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use std::time::Duration;
/// use tower_anyreach::{CredentialStore, source::CommandSource};
///
/// let command =
///     CommandSource::new("bao").args(["kv", "get", "-field=token", "secret/anyreach"]);
/// # let command = CommandSource::new("printf").args(["ak_4711.c2VjcmV0"]);
/// let store = CredentialStore::loader(command)
///     .refresh_every(Duration::from_secs(60))
///     .load()
///     .await?;
/// assert!(store.credential().id().to_string().starts_with("ak_4711"));
/// # Ok(())
/// # }
/// ```
pub struct CommandSource {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    organization: Option<OrganizationId>,
    timeout: Duration,
    /// Locked by the thread that runs the command, until the command is reaped.
    running: Arc<Mutex<()>>,
}

impl CommandSource {
    /// Creates a source that runs this program without arguments. A relative path with a `/` is
    /// made absolute, so a later change of the working directory has no effect.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: absolute_or_same(program.into()),
            args: Vec::new(),
            env: Vec::new(),
            organization: None,
            timeout: Duration::from_secs(9),
            running: Arc::default(),
        }
    }

    /// Adds an argument. Errors and `Debug` do not show it.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments. Errors and `Debug` do not show them.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the command. Errors and `Debug` do not show it.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the organization of the personal access token that the command prints. An API key is
    /// then refused.
    #[must_use]
    pub fn organization(mut self, organization: OrganizationId) -> Self {
        self.organization = Some(organization);
        self
    }

    /// Sets how long the command may run before it is killed.
    ///
    /// Set it below the store's time limit ([`Loader::timeout`](crate::Loader::timeout)), whose
    /// error does not name the command.
    ///
    /// Default: 9 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ANYREACH_") {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn parse(&self, output: &[u8]) -> Result<Credential, CommandErrorReason> {
        let credential = Credential::parse_bytes(output)
            .map_err(|invalid| CommandErrorReason::InvalidCredential(invalid.reason()))?;
        match (&self.organization, credential.kind()) {
            (None, _) => Ok(credential),
            (Some(organization), CredentialKind::PersonalAccessToken) => {
                Ok(credential.with_organization(organization.clone()))
            }
            (Some(_), CredentialKind::OrganizationApiKey) => {
                Err(CommandErrorReason::UnexpectedOrganization)
            }
        }
    }

    fn error(&self, reason: CommandErrorReason) -> CommandError {
        CommandError {
            program: self.program.clone(),
            reason,
        }
    }
}

impl CredentialSource for CommandSource {
    /// Runs the command, after an earlier run has ended.
    ///
    /// # Errors
    ///
    /// Returns a boxed [`CommandError`].
    async fn fetch(&self) -> Result<Credential, BoxError> {
        let running = Arc::clone(&self.running).lock_owned().await;
        let (mut command, timeout) = (self.command(), self.timeout);
        let (sender, answer) = oneshot::channel();
        let thread = thread::Builder::new().name("anyreach-command".to_owned());
        let spawned = thread.spawn(move || {
            match command.spawn() {
                Err(cause) => drop(sender.send(Err(io_error(&cause)))),
                Ok(mut child) => {
                    let outcome = run(&mut child, timeout, || sender.is_closed());
                    drop(sender.send(outcome));
                    // After the answer, because a process may be impossible to kill.
                    drop(child.wait());
                }
            }
            drop(running);
        });
        spawned.map_err(|cause| self.error(io_error(&cause)))?;

        // The thread sends no answer only if it panics.
        let panicked = |_| self.error(CommandErrorReason::Io(io::ErrorKind::Other));
        let outcome = answer.await.map_err(panicked)?;
        let credential = outcome.and_then(|output| self.parse(&output));
        Ok(credential.map_err(|reason| self.error(reason))?)
    }
}

impl fmt::Debug for CommandSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSource")
            .field("program", &self.program)
            .field("organization", &self.organization)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Makes a relative path with a directory absolute. A name alone is looked up in `PATH`.
fn absolute_or_same(program: OsString) -> OsString {
    if !program.as_encoded_bytes().contains(&b'/') {
        return program;
    }
    absolute(&program).map_or(program, PathBuf::into_os_string)
}

/// Returns the output of a command that exits within its time limit, and kills what is left of it.
fn run(
    child: &mut Child,
    timeout: Duration,
    is_given_up: impl Fn() -> bool,
) -> Result<Zeroizing<Vec<u8>>, CommandErrorReason> {
    let mut output = Output {
        stdout: child.stdout.take().expect("stdout is a pipe"),
        bytes: Zeroizing::new(vec![0; MAX_LEN + 1]),
        len: 0,
    };
    let watched = watch(child, &mut output, timeout, is_given_up);
    // If other code has collected the status, the numbers may be those of other processes.
    if has_exited(child).is_ok() {
        // These fail if the processes do not exist any more, or belong to another user. The command
        // itself may have left its group.
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        let _ = child.kill();
    }
    watched?;
    let status = child.wait().map_err(|cause| io_error(&cause))?;
    if !status.success() {
        return Err(CommandErrorReason::Failed(status.code()));
    }
    output.bytes.truncate(output.len);
    Ok(output.bytes)
}

/// Reads the output of a command until it has exited. Does not reap it.
fn watch(
    child: &Child,
    output: &mut Output,
    timeout: Duration,
    is_given_up: impl Fn() -> bool,
) -> Result<(), CommandErrorReason> {
    ioctl_fionbio(&output.stdout, true).map_err(|cause| io_error(&cause.into()))?;
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        // Checked before reading: once the command has exited, all its output is in the pipe.
        let has_exited = has_exited(child).map_err(|cause| io_error(&cause))?;
        output.read()?;
        if has_exited {
            return Ok(());
        }
        let left = timeout.saturating_sub(begun.elapsed());
        if left.is_zero() || is_given_up() {
            return Err(CommandErrorReason::TimedOut);
        }
        thread::sleep(pause.min(left));
        pause = PAUSE.min(pause * 2);
    }
}

/// Returns whether the command has exited, without collecting its status.
fn has_exited(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(Pid::from_child(child)), options)?.is_some())
}

fn io_error(cause: &io::Error) -> CommandErrorReason {
    CommandErrorReason::Io(cause.kind())
}

/// The output of a command.
struct Output {
    stdout: ChildStdout,
    /// One byte longer than accepted, and allocated at that size, because a buffer that grows
    /// leaves copies behind.
    bytes: Zeroizing<Vec<u8>>,
    len: usize,
}

impl Output {
    /// Reads the available output, without waiting for more.
    fn read(&mut self) -> Result<(), CommandErrorReason> {
        while self.len <= MAX_LEN {
            match self.stdout.read(&mut self.bytes[self.len..]) {
                Ok(0) => return Ok(()),
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(io_error(&error)),
            }
        }
        Err(CommandErrorReason::TooLarge)
    }
}

/// An error from a [`CommandSource`]. It names the program and the reason, and never shows an
/// argument or output.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_anyreach::source::{CommandError, CommandSource, CredentialSource};
///
/// let error = CommandSource::new("false").fetch().await.unwrap_err();
/// let error: &CommandError = error.downcast_ref().unwrap();
/// assert_eq!(error.to_string(), "`false` failed with status 1");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CommandError {
    program: OsString,
    reason: CommandErrorReason,
}

impl CommandError {
    /// Returns the program. A relative path has been made absolute.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// Returns why the command provided no credential.
    #[must_use]
    pub fn reason(&self) -> CommandErrorReason {
        self.reason
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CommandErrorReason as Reason;
        write!(f, "`{}` ", self.program.to_string_lossy())?;
        match self.reason {
            Reason::Io(kind) => write!(f, "could not be run: {kind}"),
            Reason::Failed(Some(status)) => write!(f, "failed with status {status}"),
            Reason::Failed(None) => f.write_str("was killed by a signal"),
            Reason::TimedOut => f.write_str("exceeded its time limit and was killed"),
            Reason::TooLarge => f.write_str("printed more than 8 KiB and was killed"),
            Reason::InvalidCredential(reason) => {
                write!(
                    f,
                    "printed no credential: {}",
                    InvalidCredential::of(reason)
                )
            }
            Reason::UnexpectedOrganization => f.write_str(
                "printed an organization API key, which is bound to its own organization",
            ),
        }
    }
}

impl fmt::Debug for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandError({self})")
    }
}

impl std::error::Error for CommandError {}

/// Why a command provided no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandErrorReason {
    /// The command could not be started, read or waited for. The program does not exist or is not
    /// executable, no thread could be started to run it, or other code of this process collected
    /// its exit status.
    Io(io::ErrorKind),
    /// The command exited with this status, which is not 0, or was killed by a signal. Its output
    /// is not used.
    Failed(Option<i32>),
    /// The command ran longer than [`CommandSource::timeout`] and was killed.
    TimedOut,
    /// The command printed more than 8 KiB and was killed.
    TooLarge,
    /// The output is not one credential.
    InvalidCredential(InvalidCredentialReason),
    /// The command printed an organization API key, but an organization was set.
    UnexpectedOrganization,
}

impl CommandErrorReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Failed(_) => "failed",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::InvalidCredential(_) => "invalid_credential",
            Self::UnexpectedOrganization => "unexpected_organization",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_made_absolute_and_a_name_alone_is_not() {
        let here = env::current_dir().expect("a directory");
        let program = |program: &str| CommandSource::new(program).program;
        assert_eq!(program("bin/token"), here.join("bin/token"));
        assert_eq!(program("./token"), here.join("token"));
        assert_eq!(program("/bin/token"), "/bin/token");
        assert_eq!(program("token"), "token");
    }
}
