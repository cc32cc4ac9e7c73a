//! The mounter as a process: its sockets, its peers, its privileges, its end. As root, with real mounts.
//!
//! A harness of its own, since a mounter has one thread and libtest's tests do not: this program starts itself as
//! mounter, agent, confined process or supervisor, by its first argument.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests, which clippy knows by an attribute that a harness of one's own does not have"
)]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use attache_node_plugin::ipc::{
    FileSet, Generation, MounterClient, MounterError, NewFile, SOCKET_NAME, SealedGeneration,
};
use attache_node_plugin::mounter::{
    Child, Failpoints, MounterSettings, SuperviseError, VolumeLimits, begin_supervised, confine,
    serve, supervise,
};
use attache_node_plugin::volume::{PodUid, Target, VolumeName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const AGENT: u32 = 4840;
const DEADLINE: Duration = Duration::from_secs(20);

/// SYS_ADMIN, LINUX_IMMUTABLE, FOWNER, DAC_OVERRIDE, CHOWN: bits 21, 9, 3, 1, 0.
const KEPT: &str = "000000000020020b";

type Test = (&'static str, fn());

const TESTS: [Test; 11] = [
    (
        "sockets_belong_to_those_who_use_them",
        sockets_belong_to_those_who_use_them,
    ),
    (
        "an_agent_publishes_through_the_mounter",
        an_agent_publishes_through_the_mounter,
    ),
    ("another_user_is_refused", another_user_is_refused),
    (
        "a_newer_connection_replaces_the_older",
        a_newer_connection_replaces_the_older,
    ),
    (
        "what_is_no_request_ends_the_connection_only",
        what_is_no_request_ends_the_connection_only,
    ),
    (
        "only_the_privileges_that_mounting_takes_are_left",
        only_the_privileges_that_mounting_takes_are_left,
    ),
    (
        "a_confined_process_cannot_get_out",
        a_confined_process_cannot_get_out,
    ),
    (
        "a_second_mounter_does_not_start",
        a_second_mounter_does_not_start,
    ),
    ("mounts_outlive_the_mounter", mounts_outlive_the_mounter),
    (
        "a_supervisor_starts_again_and_ends_all",
        a_supervisor_starts_again_and_ends_all,
    ),
    (
        "children_have_nothing_of_their_supervisors_starter",
        children_have_nothing_of_their_supervisors_starter,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("as-mounter") => {
            serve(&settings(Path::new(&args[1])), &|| ()).expect("the mounter failed")
        }
        Some("as-agent") => as_agent(Path::new(&args[1])),
        Some("as-confined") => as_confined(args[1].parse().unwrap(), Path::new(&args[2])),
        Some("as-supervisor") => as_supervisor(Path::new(&args[1])),
        Some("as-child") => as_child(Path::new(&args[1])),
        _ => return run(&args),
    }
    ExitCode::SUCCESS
}

/// As much of libtest's command line as its runners use: a list, and filters.
fn run(args: &[String]) -> ExitCode {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let filters: Vec<&String> = args
        .iter()
        .filter(|arg| !arg.starts_with('-') && *arg != "terse")
        .collect();
    let ignored_only = has("--ignored");
    let chosen = TESTS.iter().filter(|(name, _)| {
        let fits = |filter: &&String| {
            if has("--exact") {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        !ignored_only && (filters.is_empty() || filters.iter().any(fits))
    });
    let mut count = 0;
    for (name, test) in chosen {
        count += 1;
        if has("--list") {
            println!("{name}: test");
            continue;
        }
        // A failure panics, and ends the program with the panic's message and another code than 0.
        test();
        println!("test {name} ... ok");
    }
    if !has("--list") {
        println!(
            "\ntest result: ok. {count} passed; 0 failed; 0 ignored; 0 measured; {} filtered out",
            TESTS.len() - count
        );
    }
    ExitCode::SUCCESS
}

fn settings(root: &Path) -> MounterSettings {
    MounterSettings {
        driver: "csi.attache.dev".to_owned(),
        kubelet_dir: root.join("kubelet"),
        csi_socket: root.join("plugins/kubelet@csi.sock"),
        registration_dir: root.join("registry"),
        ipc_dir: root.join("run"),
        agent_uid: AGENT,
        agent_gid: AGENT,
        limits: VolumeLimits::default(),
        danger_failpoints: Failpoints::default(),
    }
}

/// This program in another part.
fn part(name: &str, argument: impl Into<OsString>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(name).arg(argument.into());
    command
}

/// A folder with kubelet's in it, and a mounter.
struct Machine {
    dir: tempfile::TempDir,
    mounter: Process,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(dir.path().join("kubelet").join(target().folder())).unwrap();
        let mounter = Self::start(dir.path());
        Self { dir, mounter }
    }

    fn start(root: &Path) -> Process {
        let mounter = part("as-mounter", root).spawn().unwrap();
        let pid = mounter.id().to_string();
        let confined = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("Seccomp:\t2")
        };
        wait_for("the mounter to be confined", confined);
        mounter
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn mount_point(&self) -> PathBuf {
        target().path(&self.root().join("kubelet"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.mounter.id()).unwrap())
    }

    /// Runs the agent's part under the agent's user, with the verbs on its standard input.
    fn agent(&self, verbs: &str) -> String {
        let mut agent = part("as-agent", self.root())
            .uid(AGENT)
            .gid(AGENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        agent
            .stdin
            .take()
            .unwrap()
            .write_all(verbs.as_bytes())
            .unwrap();
        let output = agent.wait_with_output().unwrap();
        assert!(output.status.success(), "{verbs}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.root().join("run").join(SOCKET_NAME)
    }

    fn is_mounted(&self) -> bool {
        let point = format!(" {} ", self.mount_point().display());
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&point)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _killed = self.mounter.kill();
        let _reaped = self.mounter.wait();
        while self.is_mounted() {
            rustix::mount::unmount(self.mount_point(), rustix::mount::UnmountFlags::DETACH)
                .unwrap();
        }
    }
}

fn target() -> Target {
    Target {
        pod: PodUid::parse("uid-1").unwrap(),
        volume: VolumeName::parse("secrets").unwrap(),
    }
}

const FILES: [NewFile<'_>; 1] = [NewFile {
    path: "db/password",
    mode: 0o400,
    uid: 1000,
    gid: None,
    value: b"hunter2",
}];

fn sealed() -> SealedGeneration {
    let generation = Generation {
        incarnation: 1,
        seq: 1,
        digest: [1; 32],
    };
    SealedGeneration::seal(&generation, &FILES, b"{\"seq\":1}").unwrap()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The agent: does what its standard input says, a verb a line, and prints each result.
fn as_agent(root: &Path) {
    let mut client = MounterClient::new(&root.join("run"), 0);
    let mut older = None;
    for verb in std::io::stdin().lines() {
        let result = match verb.unwrap().as_str() {
            "connect" => {
                let connected = client
                    .connect()
                    .map(|hello| serve_once(hello.csi, hello.facts));
                connected.map(|facts| format!("{facts:?}"))
            }
            "another" => {
                older = Some(std::mem::replace(
                    &mut client,
                    MounterClient::new(&root.join("run"), 0),
                ));
                client.connect().map(|_| "connected".to_owned())
            }
            "older" => {
                let older = older.as_ref().unwrap();
                older.wait_closed();
                older.list().map(|_| "still there".to_owned())
            }
            "attach" => client.attach(&target()).map(|made| format!("made {made}")),
            "write" => client
                .write(&target(), &sealed())
                .map(|changed| format!("changed {changed}")),
            "wipe" => client
                .wipe(&target())
                .map(|changed| format!("changed {changed}")),
            "list" => client
                .list()
                .map(|volumes| format!("{} volumes", volumes.len())),
            "stat" => client.stat(&target()).map(|state| {
                let same = state.stat.file_set == FileSet::of(&FILES).digest();
                let metadata = String::from_utf8(state.metadata.unwrap_or_default()).unwrap();
                format!("whole {} same {same} {metadata}", state.stat.whole)
            }),
            "detach" => client
                .detach(&target())
                .map(|was_mounted| format!("was mounted {was_mounted}")),
            other => {
                let bytes = other.strip_prefix("nonsense ").expect("a verb");
                nonsense(root, bytes.parse().unwrap())
            }
        };
        println!("{}", result.unwrap_or_else(|error| format!("{error:?}")));
    }
}

/// Accepts kubelet's connection if there is one, on the listener that the mounter bound.
fn serve_once(csi: OwnedFd, facts: attache_node_plugin::ipc::Facts) -> String {
    let listener = UnixListener::from(csi);
    if let Ok((mut kubelet, _)) = listener.accept() {
        kubelet.write_all(b"csi").unwrap();
    }
    format!("{facts:?}")
}

fn sockets_belong_to_those_who_use_them() {
    let machine = Machine::new();
    for (path, owner, mode, is_socket) in [
        ("run", (0, AGENT), 0o750, false),
        ("run/mounter.sock", (AGENT, 0), 0o600, true),
        ("plugins", (0, 0), 0o700, false),
        ("plugins/kubelet@csi.sock", (0, 0), 0o600, true),
        (
            "registry/kubelet@csi.attache.dev-reg.sock",
            (0, 0),
            0o600,
            true,
        ),
    ] {
        let found = std::fs::symlink_metadata(machine.root().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{path}");
        assert_eq!(found.mode() & 0o7777, mode, "{path}");
        assert_eq!(found.file_type().is_socket(), is_socket, "{path}");
    }
}

fn an_agent_publishes_through_the_mounter() {
    let machine = Machine::new();
    let mut kubelet = UnixStream::connect(machine.root().join("plugins/kubelet@csi.sock")).unwrap();
    let said = machine.agent("connect\nattach\nattach\nwrite\nwrite\nlist\nstat\n");
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[0], "\"Facts { noswap: true, inode_flags: true }\"");
    assert_eq!(said[1..4], ["made true", "made false", "changed true"]);
    assert_eq!(
        said[4..],
        [
            "changed false",
            "1 volumes",
            "whole true same true {\"seq\":1}"
        ]
    );
    let mut answer = String::new();
    kubelet.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "csi");
    assert_eq!(
        std::fs::read(machine.mount_point().join("db/password")).unwrap(),
        b"hunter2"
    );
    // A new agent finds it all.
    let said = machine.agent("connect\nstat\nwipe\nstat\ndetach\ndetach\nlist\n");
    let said: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(
        said[..3],
        [
            "whole true same true {\"seq\":1}",
            "changed true",
            "whole true same false "
        ]
    );
    assert_eq!(
        said[3..],
        ["was mounted true", "was mounted false", "0 volumes"]
    );
    assert!(!machine.is_mounted() && !machine.mount_point().exists());
}

fn another_user_is_refused() {
    let machine = Machine::new();
    // Root may open the socket, and is not the agent.
    let client = MounterClient::new(&machine.root().join("run"), 0);
    assert!(client.connect().is_err());
    // And a mounter that is not root's is not the mounter.
    let other = MounterClient::new(&machine.root().join("run"), 1);
    assert!(matches!(
        other.connect(),
        Err(MounterError::WrongPeer {
            expected: 1,
            found: 0
        })
    ));
    let mut stranger = part("as-agent", machine.root())
        .uid(1000)
        .gid(1000)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    stranger
        .stdin
        .take()
        .unwrap()
        .write_all(b"connect\n")
        .unwrap();
    let said = String::from_utf8(stranger.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        said.contains("\"connect\"") && said.contains("13"),
        "EACCES is due: {said}"
    );
    assert!(machine.agent("connect\nattach\n").contains("made true"));
}

fn a_newer_connection_replaces_the_older() {
    let machine = Machine::new();
    let said = machine.agent("connect\nattach\nanother\nlist\nolder\nlist\n");
    let said: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(said[..3], ["made true", "connected", "1 volumes"]);
    assert!(
        said[3].contains("NotConnected") || said[3].contains("Lost"),
        "{}",
        said[3]
    );
    assert_eq!(said[4], "1 volumes");
}

fn what_is_no_request_ends_the_connection_only() {
    let machine = Machine::new();
    for bytes in ["1", "159", "160", "161", "70000"] {
        assert_eq!(
            machine.agent(&format!("nonsense {bytes}\n")).trim(),
            "ended",
            "{bytes}"
        );
    }
    assert!(machine.agent("connect\nattach\n").contains("made true"));
}

/// Sends so many zeroes to the mounter, and waits for the end of the connection.
fn nonsense(root: &Path, bytes: usize) -> Result<String, MounterError> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send,
        socket,
    };
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(
        &socket,
        &SocketAddrUnix::new(root.join("run").join(SOCKET_NAME)).unwrap(),
    )
    .unwrap();
    let mut answer = [0; 4096];
    assert_ne!(
        recv(&socket, &mut answer, RecvFlags::empty()).unwrap().0,
        0,
        "no hello"
    );
    send(&socket, &vec![0; bytes], SendFlags::NOSIGNAL).unwrap();
    match recv(&socket, &mut answer, RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok("ended".to_owned()),
        other => Ok(format!("{other:?}")),
    }
}

fn only_the_privileges_that_mounting_takes_are_left() {
    let machine = Machine::new();
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.mounter.id())).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for (name, expected) in [
        ("CapEff", KEPT),
        ("CapPrm", KEPT),
        ("CapBnd", KEPT),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ] {
        assert_eq!(field(name), expected, "{name}");
    }
}

fn a_confined_process_cannot_get_out() {
    let mut victim = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut confined = part("as-confined", victim.id().to_string());
    let output = confined.arg(folder.path()).output().unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "before: socket done, ptrace done, mount done, memfd_create done",
        "after: program EPERM, thread EPERM, socket EPERM, unix socket EPERM, ptrace EPERM, kill EPERM, mount EPERM, \
         unshare EPERM, chroot EPERM, setuid EPERM, memfd_create EPERM, mknod EPERM, link EPERM, prctl EPERM, \
         other ioctl EPERM, keep capabilities EPERM",
        "still: open done, list done",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

/// Tries what a mounter must not do, before and after it is confined.
fn as_confined(victim: i32, folder: &Path) {
    let victim = Pid::from_raw(victim);
    std::fs::write(folder.join("file"), "").unwrap();
    let few = ["ptrace", "socket", "mount", "memfd_create"];
    println!(
        "before: {}",
        tried(&attempts(), |name| few.contains(&name), victim, folder)
    );
    confine().unwrap();
    println!("after: {}", tried(&attempts(), |_| true, victim, folder));
    let open = std::fs::read("/proc/self/mountinfo").map(drop);
    let list = std::fs::read_dir(folder).map(drop);
    println!(
        "still: open {}, list {}",
        word(open.map_err(errno)),
        word(list.map_err(errno))
    );
}

type Attempt = fn(Pid, &Path) -> Result<(), i32>;

fn attempts() -> [(&'static str, Attempt); 16] {
    use rustix::fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, linkat, memfd_create, mknodat};
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use rustix::net::{AddressFamily, SocketType, socket};
    [
        ("program", |_, _| {
            Command::new("/bin/true").spawn().map(drop).map_err(errno)
        }),
        ("thread", |_, _| {
            std::thread::Builder::new()
                .spawn(|| ())
                .map(drop)
                .map_err(errno)
        }),
        ("socket", |_, _| {
            socket(AddressFamily::INET, SocketType::STREAM, None)
                .map(drop)
                .map_err(raw)
        }),
        ("unix socket", |_, _| {
            socket(AddressFamily::UNIX, SocketType::STREAM, None)
                .map(drop)
                .map_err(raw)
        }),
        ("ptrace", |victim, _| {
            nix::sys::ptrace::attach(victim).map_err(|errno| errno as i32)?;
            nix::sys::wait::waitpid(victim, None).unwrap();
            nix::sys::ptrace::detach(victim, None).map_err(|errno| errno as i32)
        }),
        ("kill", |victim, _| {
            kill(victim, Signal::SIGKILL).map_err(|errno| errno as i32)
        }),
        ("mount", |_, folder| {
            mount("x", folder, c"tmpfs", MountFlags::empty(), None).map_err(raw)?;
            unmount(folder, UnmountFlags::DETACH).map_err(raw)
        }),
        ("unshare", |_, _| unshare()),
        ("chroot", |_, folder| {
            rustix::process::chroot(folder).map_err(raw)
        }),
        ("setuid", |_, _| {
            nix::unistd::setuid(0.into()).map_err(|errno| errno as i32)
        }),
        ("memfd_create", |_, _| {
            memfd_create("x", MemfdFlags::CLOEXEC)
                .map(drop)
                .map_err(raw)
        }),
        ("mknod", |_, folder| {
            mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::RWXU, 0).map_err(raw)
        }),
        ("link", |_, folder| {
            linkat(
                CWD,
                folder.join("file"),
                CWD,
                folder.join("link"),
                AtFlags::empty(),
            )
            .map_err(raw)
        }),
        ("prctl", |_, _| {
            rustix::thread::set_no_new_privs(true).map_err(raw)
        }),
        ("other ioctl", |_, _| {
            rustix::io::ioctl_fionread(std::io::stdin())
                .map(drop)
                .map_err(raw)
        }),
        ("keep capabilities", |_, _| {
            rustix::thread::set_keep_capabilities(true).map_err(raw)
        }),
    ]
}

fn tried(
    attempts: &[(&str, Attempt)],
    chosen: impl Fn(&str) -> bool,
    victim: Pid,
    folder: &Path,
) -> String {
    let chosen = attempts.iter().filter(|(name, _)| chosen(name));
    chosen
        .map(|(name, attempt)| format!("{name} {}", word(attempt(victim, folder))))
        .collect::<Vec<_>>()
        .join(", ")
}

fn word(result: Result<(), i32>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(libc::EPERM) => "EPERM".to_owned(),
        Err(other) => format!("errno {other}"),
    }
}

fn raw(errno: rustix::io::Errno) -> i32 {
    errno.raw_os_error()
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[expect(deprecated, reason = "the safe form; nothing is unshared here")]
fn unshare() -> Result<(), i32> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).map_err(raw)
}

fn a_second_mounter_does_not_start() {
    let machine = Machine::new();
    let second = part("as-mounter", machine.root())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("Taken"), "{said}");
    assert!(machine.agent("connect\nattach\n").contains("made true"));
}

fn mounts_outlive_the_mounter() {
    let mut machine = Machine::new();
    assert!(
        machine
            .agent("connect\nattach\nwrite\n")
            .contains("changed true")
    );
    for (signal, leaves_sockets) in [
        (Signal::SIGTERM, false),
        (Signal::SIGKILL, true),
        (Signal::SIGINT, false),
    ] {
        kill(machine.pid(), signal).unwrap();
        let status = machine.mounter.wait().unwrap();
        assert_eq!(status.success(), !leaves_sockets, "{signal}: {status}");
        assert_eq!(machine.socket().exists(), leaves_sockets, "{signal}");
        assert_eq!(
            machine.root().join("plugins/kubelet@csi.sock").exists(),
            leaves_sockets,
            "{signal}"
        );
        assert!(machine.is_mounted(), "{signal}");
        machine.mounter = Machine::start(machine.root());
        let said = machine.agent("connect\nlist\nstat\nattach\nwrite\n");
        let said: Vec<&str> = said.lines().skip(1).collect();
        assert_eq!(
            said,
            [
                "1 volumes",
                "whole true same true {\"seq\":1}",
                "made false",
                "changed false"
            ],
            "{signal}"
        );
    }
}

fn a_supervisor_starts_again_and_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let root = folder.path();
    let mut supervisor = part("as-supervisor", root).spawn().unwrap();
    let pid_of =
        |name: &str| -> Option<i32> { std::fs::read_to_string(root.join(name)).ok()?.parse().ok() };
    wait_for("both children", || {
        pid_of("root").is_some() && pid_of("agent").is_some()
    });
    assert_eq!(std::fs::metadata(root.join("agent")).unwrap().uid(), AGENT);
    let first = pid_of("agent").unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    wait_for("a new agent", || {
        pid_of("agent").is_some_and(|pid| pid != first)
    });
    kill(
        Pid::from_raw(i32::try_from(supervisor.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert!(supervisor.wait().unwrap().success());
    for name in ["root", "agent"] {
        assert!(
            kill(Pid::from_raw(pid_of(name).unwrap()), None).is_err(),
            "{name} lives"
        );
    }
    // One that is killed takes its children with it.
    let old = pid_of("root");
    let mut supervisor = part("as-supervisor", root).spawn().unwrap();
    wait_for("both children", || {
        pid_of("root") != old && pid_of("root").is_some()
    });
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let child = Pid::from_raw(pid_of("root").unwrap());
    wait_for("the child's end", || kill(child, None).is_err());
}

/// Started by root at a terminal, with an open descriptor and variables that are nobody's business.
fn children_have_nothing_of_their_supervisors_starter() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let root = folder.path();
    let own = std::env::current_exe().unwrap();
    let line = format!(
        "exec 9</etc/passwd; echo $$ >{root}/pid; exec {own} as-supervisor {root}",
        root = root.display(),
        own = own.display()
    );
    let mut starter = Command::new("script")
        .args(["--quiet", "--command", &line, "/dev/null"])
        .env("CANARY", "canary-of-the-starter")
        .env("NOTIFY_SOCKET", "/run/notify")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let read = |path: String| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let number = |name: &str| -> Option<i32> {
        std::fs::read_to_string(root.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    wait_for("both children", || {
        number("root").is_some() && number("agent").is_some()
    });
    let supervisor = number("pid").unwrap();
    // Session and terminal: the fourth and fifth field after the name.
    let stat = |pid: i32| -> Vec<String> {
        let text = read(format!("/proc/{pid}/stat"));
        let fields = text.rsplit_once(") ").unwrap().1.split(' ');
        fields.skip(3).take(2).map(str::to_owned).collect()
    };
    let link = |pid: i32, fd: &str| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    assert_ne!(stat(supervisor)[1], "0", "the control: it has a terminal");
    assert!(read(format!("/proc/{supervisor}/environ")).contains("CANARY"));
    assert_eq!(link(supervisor, "9").unwrap(), Path::new("/etc/passwd"));
    for name in ["root", "agent"] {
        let pid = number(name).unwrap();
        assert_eq!(stat(pid), [pid.to_string(), "0".to_owned()], "{name}");
        let environ = read(format!("/proc/{pid}/environ"));
        let mut names: Vec<&str> = environ
            .split_terminator('\0')
            .filter_map(|variable| variable.split('=').next())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["ATTACHE_SUPERVISOR_PID", "NOTIFY_SOCKET"], "{name}");
        for fd in ["0", "1"] {
            assert_eq!(link(pid, fd).unwrap(), Path::new("/dev/null"), "{name}");
        }
        assert!(link(pid, "2").unwrap().starts_with("/dev/pts"), "{name}");
        let flags = read(format!("/proc/{pid}/fdinfo/2"));
        let flags = flags
            .lines()
            .find_map(|l| l.strip_prefix("flags:"))
            .unwrap();
        assert!(flags.ends_with('1'), "{name}: for writing alone: {flags}");
        assert_eq!(link(pid, "9"), None, "{name}");
    }
    kill(Pid::from_raw(supervisor), Signal::SIGTERM).unwrap();
    starter.wait().unwrap();
}

fn as_supervisor(root: &Path) {
    let child = |name: &'static str, user| Child {
        name,
        args: vec!["as-child".into(), root.join(name).into()],
        user,
    };
    supervise(vec![
        child("root", None),
        child("agent", Some((AGENT, AGENT))),
    ])
    .expect("supervise");
}

/// Writes its pid, whole, and waits for the end.
fn as_child(path: &Path) {
    if let Err(SuperviseError::Orphan) = begin_supervised() {
        return;
    }
    let new = path.with_extension("new");
    std::fs::write(&new, std::process::id().to_string()).unwrap();
    std::fs::rename(&new, path).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}
