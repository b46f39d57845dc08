//! A shell at a real terminal, driven by tmux: job control, sizes, detaching, coming back.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Home, finish, for_all_users, has, skip};

/// Longer than a shell takes to answer on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A tmux server of our own with one window, in which a home's user has a shell.
struct Terminal<'a> {
    home: &'a Home,
    socket: String,
}

impl<'a> Terminal<'a> {
    fn new(home: &'a Home) -> Self {
        let socket = home.path("tmux").to_str().unwrap().to_owned();
        let terminal = Self { home, socket };
        let mut command = terminal.command();
        command.args([
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "sh",
        ]);
        finish(command, &["tmux"]).ok();
        let program = home.command().get_program().to_string_lossy().into_owned();
        let words: Vec<String> = home
            .command()
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        terminal.line(&format!(
            "rrun() {{ {program} {} \"$@\"; }}",
            words.join(" ")
        ));
        terminal
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]);
        for (name, value) in self.home.command().get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = self.command();
        command.args(words);
        finish(command, words).ok()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// Waits until a whole line of the screen is `text`, but for the prompt that is before what a
    /// slow shell finds typed already, and before what comes while one types.
    #[track_caller]
    fn shows(&self, text: &str) {
        let began = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p", "-S", "-"]);
            let shown = |line: &str| line.trim_start_matches(['/', '#', ' ']).trim_end() == text;
            if screen.lines().any(shown) {
                return;
            }
            assert!(began.elapsed() < ANSWER_MAX, "no {text:?} in {screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a line and waits for what it prints.
    #[track_caller]
    fn says(&self, line: &str, text: &str) {
        self.line(line);
        self.shows(text);
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        drop(self.command().arg("kill-server").status());
    }
}

#[test]
fn a_shell_in_a_container_is_as_one_outside() {
    if !has("tmux") {
        return skip("tmux is not installed");
    }
    for_all_users(|_, home| {
        let terminal = Terminal::new(home);
        // Sums, so that what was typed is not taken for the answer.
        terminal.says(
            "rrun run -it --name tm bb:1 sh -c 'echo in-$((1+1)); exec sh'",
            "in-2",
        );
        terminal.says("stty size", "30 100");
        // A job that speaks has the terminal.
        let job = |number: u8| {
            let words = format!("sh -c 'echo job-$((1+{number})); exec sleep 300'");
            terminal.says(&words, &format!("job-{}", 1 + number));
        };
        job(1);
        terminal.keys(&["C-c"]);
        terminal.says("echo interrupted-$((100+30))", "interrupted-130");
        job(2);
        terminal.keys(&["C-z"]);
        terminal.says("jobs | grep -c Stopped", "1");
        terminal.says(
            "bg >/dev/null; kill %1; wait; echo waited-$((1+1))",
            "waited-2",
        );
        terminal.tmux(&["resize-window", "-x", "120", "-y", "40"]);
        terminal.says(
            "until stty size | grep '40 120'; do sleep 1; done",
            "40 120",
        );
        // The end of input is the shell's own until a command runs.
        terminal.says("echo reads-$((1+1)); cat; echo end-$((1+1))", "reads-2");
        terminal.keys(&["C-d"]);
        terminal.shows("end-2");
        terminal.keys(&["C-p", "C-q"]);
        // What is typed at once may be read together with the keys, and be gone.
        terminal.shows("read escape sequence");
        terminal.says("echo outside-$((1+1))", "outside-2");
        terminal.says("rrun ps --format '{{.Names}}-{{.State}}'", "tm-running");
        terminal.line("rrun attach tm; echo code-$?");
        terminal.says("echo again-$((40+2))", "again-42");
        terminal.line("exit 7");
        terminal.shows("code-7");
    });
}
