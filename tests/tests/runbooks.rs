//! The runbooks of docs/operations, followed as they are written: each command is run against a real broker, and prints what
//! the page says it prints.
//!
//! ```text
//! $ COMMAND        run by bash; what it prints has to be the lines that follow, in their order
//! new$ COMMAND     the same on another machine, which has nothing yet but its settings
//! a line ... of it `...` is anything, also nothing; a line of `...` alone is any number of lines
//! ```
//! A page's paths are those of an installation; here they are put into the folder of this one. What the page takes for granted
//! happens here too: where it has a node come back, a machine that was set up anew asks to.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use attache_tests::{
    Bed,
    bed::{CLUSTER, NODE, TRUST_DOMAIN},
    process::{PATIENCE, bin_dir, until},
};

/// A command of a page and what is printed.
struct Step {
    command: String,
    /// Of the other machine.
    anew: bool,
    printed: Vec<String>,
}

/// The steps of all `console` blocks of a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut within = false;
    for line in page.lines() {
        if line.starts_with("```") {
            within = line == "```console";
        } else if let (true, Some((prompt @ ("" | "new"), command))) =
            (within, line.split_once("$ "))
        {
            steps.push(Step {
                command: command.to_owned(),
                anew: prompt == "new",
                printed: Vec::new(),
            });
        } else if within {
            steps.last_mut().unwrap().printed.push(line.to_owned());
        }
    }
    steps
}

/// Whether a line is as the page has it: the parts between `...` in their order, blanks of any number alike.
fn is_like(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (words(line), words(expected));
    let mut parts = expected.split("...").map(str::trim);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap();
        last = Some(part);
    }
    // Nothing may follow what the page ends with.
    rest.is_empty() || last == Some("")
}

/// Whether the lines are as the page has them, and those that it leaves out between them. A line of a card or table that the
/// page does not show is left out by the `...` before it.
fn are_like(lines: &[&str], expected: &[String]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((first, after)), _) if first == "..." => {
            (0..=lines.len()).any(|skipped| are_like(lines.get(skipped..).unwrap(), after))
        }
        (Some(_), None) => false,
        (Some((first, after)), Some((line, rest))) => is_like(line, first) && are_like(rest, after),
    }
}

/// An installation with the secrets that the page takes for granted, and where the page's paths are in it.
struct Site {
    bed: Bed,
    /// Another machine.
    anew: Bed,
    vkey: String,
    /// What `export` has set.
    exported: Vec<(String, String)>,
    /// Of before the node came: it is no word of an operator's that it may come again.
    join_token: String,
    /// Mutual TLS, enrollment.
    listening: (SocketAddr, SocketAddr),
}

impl Site {
    fn new() -> Self {
        let mut bed = Bed::signed_in().unwrap();
        bed.add_cluster().unwrap();
        let token = ["node", "join-token", "--cluster", CLUSTER, "--node", NODE.0];
        let join_token = bed.attache_ok(&token).unwrap();
        bed.join_node(NODE.0).unwrap();
        bed.start_plugin().unwrap();
        // Where it listens stays, also when it is sealed and opened again.
        bed.pin_addresses().unwrap();
        bed.broker.take().unwrap().stop().unwrap();
        bed.start_broker().unwrap();
        for folder in ["media/safe", "backup", "work"] {
            fs::create_dir_all(bed.dir.join(folder)).unwrap();
        }
        bed.attache_ok(&["keyspace", "create", "payments"]).unwrap();
        for secret in ["payments/db", "payments/api"] {
            bed.attache_ok(&["secret", "put", secret, "--literal", "password=first"])
                .unwrap();
        }
        let vkey = bed.audit_vkey().unwrap();
        Self {
            listening: bed.broker_addresses().unwrap(),
            anew: Bed::new().unwrap(),
            bed,
            vkey,
            exported: Vec::new(),
            join_token,
        }
    }

    /// A page's text with this installation's paths, and those of the machine that it is of.
    fn placed(&self, anew: bool, text: &str) -> String {
        let at = |path: &Path| path.display().to_string();
        let bed = if anew { &self.anew } else { &self.bed };
        let listens =
            |(grpc, enroll): (SocketAddr, SocketAddr)| format!("{grpc} --enroll {enroll}");
        let mut text = text.to_owned();
        if self.anew.broker.is_some() {
            let of_new = self.anew.broker_addresses().unwrap();
            text = text.replace("new.example:7443", &listens(of_new));
        }
        text.replace("/etc/attache", &at(&bed.dir.join("etc")))
            .replace("/var/lib/attache", &at(&bed.store_dir()))
            .replace("broker.example:7443", &listens(self.listening))
            .replace("example.internal", TRUST_DOMAIN)
            .replace("https://issuer.example", &self.bed.issuer.url)
            .replace("/srv/cluster", &at(&self.bed.cluster.dir))
            .replace("/media/safe", &at(&self.bed.dir.join("media/safe")))
            .replace(
                "/backup/",
                &format!("{}/", at(&self.bed.dir.join("backup"))),
            )
    }

    /// The last one in the broker's log.
    fn boot_key(&self) -> String {
        let log = fs::read_to_string(self.bed.dir.join("log/broker.log")).unwrap();
        let last = log.rsplit_once("boot_key=\"").map(|(_, last)| last);
        let key = last.and_then(|last| last.split_once('"'));
        key.map_or_else(String::new, |(key, _)| key.to_owned())
    }

    /// The node's machine with nothing of before but its join token: its plugin starts, and asks.
    fn set_up_the_node_anew(&mut self) {
        self.bed.plugin.take().unwrap().stop().unwrap();
        for entry in fs::read_dir(self.bed.dir.join("node-state")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        // In place: the file is the agent's.
        fs::write(self.bed.dir.join("etc/join-token"), &self.join_token).unwrap();
        self.bed.launch_plugin().unwrap();
        until(PATIENCE, "it waits for an operator", || {
            let listed = self.bed.attache_json(&["approval", "list"]).unwrap();
            let waiting = listed["approvals"].as_array().unwrap().len();
            (waiting == 1).then_some(())
        })
        .unwrap();
    }

    fn follow(&mut self, step: &Step) {
        let machine = if step.anew {
            &mut self.anew
        } else {
            &mut self.bed
        };
        match step.command.as_str() {
            "systemctl stop attache-broker" => {
                return machine.broker.take().unwrap().stop().unwrap();
            }
            "systemctl start attache-broker" => return machine.start_broker().unwrap(),
            "attache approval list" => self.set_up_the_node_anew(),
            _ => {}
        }
        if let Some((name, value)) = step
            .command
            .strip_prefix("export ")
            .and_then(|set| set.split_once('='))
        {
            return self.exported.push((name.to_owned(), value.to_owned()));
        }
        let command = self.placed(step.anew, &step.command);
        let path = std::env::var("PATH").unwrap();
        let programs = bin_dir().unwrap();
        let output = Command::new("timeout")
            .args(["60", "bash", "-ec", &command])
            .current_dir(self.bed.dir.join("work"))
            .envs(self.exported.clone())
            .stdin(Stdio::null())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("ATTACHE_CONFIG", self.bed.cli_config())
            .env("NO_COLOR", "1")
            .env("VKEY", &self.vkey)
            .env("BOOT_KEY", self.boot_key())
            .env("NEW_PASSWORD", "second")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {error}");
        let expected = step.printed.iter();
        let expected: Vec<_> = expected.map(|line| self.placed(step.anew, line)).collect();
        let lines: Vec<_> = printed.lines().collect();
        assert!(
            are_like(&lines, &expected),
            "{command} prints\n{printed}\nand the page says\n{}",
            expected.join("\n")
        );
    }
}

#[test]
fn the_runbooks_for_keys_are_as_they_are_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations/keys.md");
    let steps = steps(&fs::read_to_string(page).unwrap());
    assert!(steps.len() > 20, "{}", steps.len());
    let node = format!("local/{}", NODE.0);
    assert!(steps.iter().any(|step| step.command.contains(&node)));
    assert!(steps.iter().any(|step| step.anew));
    let mut site = Site::new();
    for step in &steps {
        site.follow(step);
    }
}

#[test]
fn a_line_is_held_against_all_of_what_the_page_says() {
    assert!(is_like("a  b 1 c", "a b ... c") && is_like("a b", "a b"));
    assert!(is_like("a b 1", "a b ...") && is_like("x y", "...y"));
    assert!(!is_like("a b 1", "a b") && !is_like("b", "a ...") && !is_like("a b d", "a ... c"));
    let page = |lines: &[&str]| {
        lines
            .iter()
            .map(|&line| line.to_owned())
            .collect::<Vec<_>>()
    };
    assert!(are_like(&["a", "b", "c"], &page(&["a", "...", "c"])));
    assert!(!are_like(&["a", "b", "c"], &page(&["a", "c"])));
    assert!(!are_like(&["a"], &page(&["a", "b"])) && !are_like(&["a", "b"], &page(&["a"])));
}
