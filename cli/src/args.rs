//! The command line: verbs, arguments and their help. What a verb does with them is in its own file.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod channel;
pub(crate) mod control;
pub(crate) mod debug;
pub(crate) mod dlq;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{Args, Parser, Subcommand};
use creto_agent::{AgentName, MessageId};
use creto_node::config::Config;

use self::dlq::DlqArgs;
use crate::exit::{self, Failure};
use crate::terminal::Color;
use crate::verb::proof::Fingerprint;

pub(crate) mod mailbox;
pub(crate) mod policy;
pub(crate) mod presence;
pub(crate) mod pubsub;
pub(crate) mod request;
pub(crate) mod signal;
pub(crate) mod thread;
pub(crate) mod token;

/// Name of the configuration file that is looked for in the working folder.
const CONFIG_FILE: &str = "creto.toml";

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(Style::new().dimmed())
    .valid(AnsiColor::Cyan.on_default())
    .invalid(AnsiColor::Yellow.on_default())
    .error(AnsiColor::Red.on_default().bold());

/// Durable, end-to-end encrypted, post-quantum signed mailboxes for AI agents.
#[derive(Debug, Parser)]
#[command(name = "creto", version, styles = STYLES, max_term_width = 100, after_help = exit::help())]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    /// Colours: on a terminal that wants them (NO_COLOR is respected), or always, or never.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_possible_values = true)]
    pub(crate) color: Color,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Arguments of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: creto.toml in this folder].
    #[arg(long, short, global = true, env = "CRETO_CONFIG", hide_env = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a configuration, a data folder and the node's certificate.
    Init(InitArgs),
    /// Run the node of this configuration until Ctrl-C or SIGTERM.
    Serve(ServeArgs),
    /// Run a control service for nodes that are processes of their own, and say which nodes it serves.
    #[command(args_conflicts_with_subcommands = true)]
    Control(control::ControlArgs),
    /// Create agents, look at them, say what they are.
    Agent(agent::AgentArgs),
    /// Make tokens with which agents may be registered, see them, withdraw them.
    Token(token::TokenArgs),
    /// Set what single mailboxes may hold, and look at it.
    Mailbox(mailbox::MailboxArgs),
    /// Create channels, change and delete them, look at them.
    Channel(channel::ChannelArgs),
    /// Send a message; returns when it is durable.
    Send(SendArgs),
    /// Print the messages of an agent, and acknowledge each once it is printed.
    Recv(RecvArgs),
    /// Tell an agent what is so just now, such as "working": it has it if it listens, and nobody stores it.
    #[command(
        after_help = "Example: creto signal acme/worker acme/planner --state working, while: creto recv acme/planner --signals --follow"
    )]
    Signal(signal::SignalArgs),
    /// Say whether an agent reads its mailbox, or when it stopped, if it shows that to whoever asks.
    Presence(presence::PresenceArgs),
    /// Ask an agent and print its answer; status 7 when none came in time, 8 when it failed.
    Request(request::RequestArgs),
    /// Answer the requests of an agent: with what they ask, with a text, or with what a command prints.
    #[command(after_help = "Example: creto respond acme/counter --exec wc -w")]
    Respond(request::RespondArgs),
    /// Publish in a channel; returns when it is durable.
    #[command(after_help = "Example: tail -f app.log | creto pub acme/planner acme/alerts.eu --lines")]
    Pub(pubsub::PubArgs),
    /// Print what is published in a channel, and acknowledge each message once it is printed.
    #[command(after_help = "Example: creto sub acme/worker acme/alerts.eu --follow")]
    Sub(pubsub::SubArgs),
    /// Look after dead letters: messages that their consumer rejected, or that failed too often.
    Dlq(DlqArgs),
    /// Load a node in an open loop, and verify afterwards what it acknowledged.
    Bench(bench::BenchArgs),
    /// See it work: a node, agents, a kill in the middle, and everything counted. Needs nothing set up.
    Demo(DemoArgs),
    /// Kill a node under load over and over, and count.
    #[command(hide = true)]
    KillCycles(KillCyclesArgs),
    /// Say whether the node that runs here serves, shard by shard; status 1 when it does not.
    Status(StatusArgs),
    /// Show what the node that runs here does, shard by shard, from moment to moment.
    Top(TopArgs),
    /// Show what the node that runs here does in a browser: a page of this machine, for whoever may open the control socket.
    Dashboard(DashboardArgs),
    /// Look at this machine and say what to fix before a node runs well on it.
    Doctor(DoctorArgs),
    /// Show cores, caches and memory nodes of this machine, and who runs where.
    Topology(TopologyArgs),
    /// Show what to set on this machine so that a node runs well on it, and set it when told to.
    Tune(TuneArgs),
    /// Check or show the configuration.
    Config(ConfigArgs),
    /// Read the log of a node that is stopped.
    Wal(WalArgs),
    /// Copy this node, running or stopped, to a folder or a tar archive.
    Backup(BackupArgs),
    /// Make a data folder of a backup, after everything in it was checked.
    Restore(RestoreArgs),
    /// Show a third party who signed a message, without a node.
    Proof(ProofArgs),
    /// Send typed messages that name the one they follow, and check conversations of them without a node.
    Thread(thread::ThreadArgs),
    /// Check, test and explain policies in Rego, before a node goes by them and while it does.
    Policy(policy::PolicyArgs),
    /// Read, export, prove and verify the audit log: what happened on a node.
    Audit(audit::AuditArgs),
    /// Gather what somebody needs who shall help with this node.
    Debug(debug::DebugArgs),
    /// Print this program's page of the manual, or write the pages of all its verbs.
    #[command(after_help = "Example: creto man --out ~/.local/share/man/man1 && man creto-serve")]
    Man(ManArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: creto completions bash > ~/.local/share/bash-completion/completions/creto")]
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Folder to make it in.
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Trust domain in which agent names are unique; it cannot be changed later.
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
    /// A host name or address that agents use for this node; may be given more than once.
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// Replace a configuration and a certificate that exist. Messages and agents stay.
    #[arg(long)]
    pub(crate) force: bool,
    /// Keep the configuration that is there, as a package brings it, and make the key and the certificate that it names.
    #[arg(long, conflicts_with_all = ["listen", "trust_domain", "folder"])]
    pub(crate) keep_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Print one JSON object per line: when it is ready, and when it has ended.
    #[arg(long)]
    pub(crate) json: bool,
    /// The control service that this node has elsewhere [default: link.control of the configuration, or one in this process].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) control: Option<String>,
    /// That one's certificate; exactly this one is believed [default: the configuration's].
    #[arg(long, value_name = "FILE")]
    pub(crate) control_certificate: Option<PathBuf>,
    /// Die with the process that started it, however that ends.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many messages [default: 20000, or as many as the input has lines].
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    pub(crate) messages: Option<u64>,
    /// Send the lines of this file as payloads, from the first again after the last.
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    pub(crate) input: Option<PathBuf>,
    /// Bytes of each payload.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) size: u32,
    /// Shards of the node.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) shards: u16,
    /// Keep the folder: the node's log and data, the agents' keys.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillCyclesArgs {
    /// How many times.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) cycles: u64,
    /// Decides the moments of the kills [default: another one each time; it is printed].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Bytes of each payload.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) size: u32,
    /// Shards of the node.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) shards: u16,
    /// Folder of the node's data, which must not exist yet [default: in a temporary folder].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Unix socket of a switch for the power of the disk that holds the data: it gets a line `off` before each kill and
    /// `on` after it, and answers each with `ok` when it is so.
    #[arg(long, value_name = "SOCKET", requires = "data")]
    pub(crate) power: Option<PathBuf>,
    /// Keep the folder: the node's log and data, both ledgers.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where keys are kept.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Folder of the agents' keys [default: agents, beside the configuration].
    #[arg(long = "keys", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// File whose first line is the passphrase of encrypted keys; only its owner may read it [default: systemd's credential
    /// `creto-passphrase`, or the terminal].
    #[arg(long, value_name = "FILE", env = "CRETO_PASSPHRASE_FILE", hide_env_values = true)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// PKCS#11 module of the token that opens the keys; the passphrase is its PIN then. It runs inside this process: name one
    /// that you trust.
    #[arg(long, value_name = "FILE", env = "CRETO_PKCS11_MODULE", requires = "pkcs11_token")]
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// Label of that token.
    #[arg(long, value_name = "LABEL", env = "CRETO_PKCS11_TOKEN", requires = "pkcs11_module")]
    pub(crate) pkcs11_token: Option<String>,
}

/// How a node is reached.
#[derive(Debug, Args)]
pub(crate) struct ReachArgs {
    /// The node [default: the configuration's].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) node: Option<String>,
    /// The node's certificate; exactly this one is trusted [default: the configuration's].
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
}

/// Who is told of the spans.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Tell this collector of the spans (OTLP over HTTP), and messages' recipients which span they come from, inside of the seal
    /// [default: the variables of OpenTelemetry; without them nobody].
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The agent that sends; its keys are here.
    #[arg(value_name = "FROM", value_parser = agent_name)]
    pub(crate) from: AgentName,
    /// The agent that receives.
    #[arg(value_name = "TO", value_parser = agent_name)]
    pub(crate) to: AgentName,
    /// The message; `-` reads it from standard input. With --attach, words that come with the file.
    #[arg(value_name = "TEXT", required_unless_present_any = ["file", "attach"], conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Send the content of a file as a message; one above 1 MiB as with --attach.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Send a file as an attachment, of any size, under its name: in chunks, and from where it was if an earlier run did not end. TO
    /// receives it with `creto recv TO --attachments DIR`.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) attach: Option<PathBuf>,
    /// How urgent it is.
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t)]
    pub(crate) priority: PriorityArg,
    /// Seconds after which it is worthless if nobody has read it.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ttl: Option<u32>,
    /// Ask for a signed receipt: it comes to FROM's mailbox when TO has acknowledged (`creto recv FROM`).
    #[arg(long)]
    pub(crate) receipt: bool,
    /// Ask for a signed receipt when TO's side has verified and opened the message, whether or not anybody has looked at it. TO may not
    /// send any.
    #[arg(long)]
    pub(crate) delivered: bool,
    /// TO's side shows it until it is acknowledged and erases it then; it never becomes a dead letter by being rejected. Whoever wants
    /// to keep a copy can.
    #[arg(long, conflicts_with = "attach")]
    pub(crate) burn: bool,
    /// TO's side shows it for so long after it is sent and erases it then, and the node keeps it no longer.
    #[arg(long, value_name = "TIME", value_parser = crate::verb::bench::parse_duration, conflicts_with = "attach")]
    pub(crate) burn_after: Option<std::time::Duration>,
    /// Do not ask for a notice, which else comes to FROM's mailbox when the message expires unread (`creto recv FROM`).
    #[arg(long)]
    pub(crate) no_notice: bool,
    /// Keys for one session each, which the agent's node keeps: whoever steals keys later cannot read what was sent to one.
    #[arg(long, value_enum, value_name = "POLICY", env = "CRETO_PREKEYS", hide_env_values = true, default_value_t)]
    pub(crate) prekeys: PrekeysArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether sessions are opened to prekeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrekeysArg {
    /// Neither use nor have any.
    Off,
    /// Use them where there are some.
    #[default]
    Prefer,
    /// Send nothing that is not sent to one.
    Require,
}

impl From<PrekeysArg> for creto_agent::PrekeyPolicy {
    fn from(prekeys: PrekeysArg) -> Self {
        match prekeys {
            PrekeysArg::Off => Self::Off,
            PrekeysArg::Prefer => Self::Prefer,
            PrekeysArg::Require => Self::Require,
        }
    }
}

/// Which receipts are sent to those who ask for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReceiptsArg {
    /// None.
    Off,
    /// When a message is acknowledged.
    Done,
    /// When it is opened, too.
    #[default]
    All,
}

impl From<ReceiptsArg> for creto_agent::ReceiptPolicy {
    fn from(receipts: ReceiptsArg) -> Self {
        match receipts {
            ReceiptsArg::Off => Self::Off,
            ReceiptsArg::Done => Self::Done,
            ReceiptsArg::All => Self::All,
        }
    }
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PriorityArg {
    /// After everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// Before everything else.
    Critical,
}

impl From<PriorityArg> for creto_agent::Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::Low => Self::Low,
            PriorityArg::Normal => Self::Normal,
            PriorityArg::High => Self::High,
            PriorityArg::Critical => Self::Critical,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RecvArgs {
    /// The agent that receives; its keys are here.
    #[arg(value_name = "AGENT", value_parser = agent_name)]
    pub(crate) agent: AgentName,
    /// Go on until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Stop after so many messages.
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Keep a proof of who signed each message in this folder, as MESSAGE_ID.proof; of a typed message its payload too, beside it as
    /// MESSAGE_ID.typed, for `creto thread verify`.
    #[arg(long, value_name = "DIR")]
    pub(crate) proofs: Option<PathBuf>,
    /// Receive files that come as attachments into this folder [default: AGENT.keys.attachments, beside its keys].
    #[arg(long, value_name = "DIR", conflicts_with = "reject")]
    pub(crate) attachments: Option<PathBuf>,
    /// Receive no attachment that is larger: its parts go to the dead letters.
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = file_size)]
    pub(crate) file_bytes_max: u64,
    /// Reject each message once it is printed, instead of acknowledging it: it goes to the dead letters, with this reason.
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "0")]
    pub(crate) reject: Option<u16>,
    /// Which receipts to send to those who ask for them: done tells nobody when AGENT is there.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub(crate) receipts: ReceiptsArg,
    /// Show those who may send to AGENT that it reads, and afterwards when it stopped (`creto presence`).
    #[arg(long)]
    pub(crate) show_presence: bool,
    /// Print signals, too, which other agents send to whoever listens (`creto signal`). They do not count as messages.
    #[arg(long)]
    pub(crate) signals: bool,
    /// Milliseconds to wait for a message before stopping, unless --follow.
    #[arg(long, value_name = "MS", default_value_t = 1000, conflicts_with = "follow")]
    pub(crate) wait: u64,
    /// Keys for one session each, which the agent's node keeps: whoever steals keys later cannot read what was sent to one.
    #[arg(long, value_enum, value_name = "POLICY", env = "CRETO_PREKEYS", hide_env_values = true, default_value_t)]
    pub(crate) prekeys: PrekeysArg,
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Time between two looks, at least 100 ms. Shards leave their numbers ten times a second, so rates over less than a second are rough.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::verb::bench::parse_duration)]
    pub(crate) interval: std::time::Duration,
    /// Look twice, show what happened in between, and end.
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// End after so many looks.
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print one JSON object a look.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// Port of 127.0.0.1 to serve the page on [default: any that is free].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Print one JSON object per line: a link, each time that one was used, and a next link for each line of input.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action"))]
pub(crate) struct TuneArgs {
    /// Show what would be changed, and change nothing; what happens without any of these.
    #[arg(long, group = "action")]
    pub(crate) plan: bool,
    /// Change it, until the next start of the machine, and remember what was there. Needs root.
    #[arg(long, group = "action")]
    pub(crate) apply: bool,
    /// Put back what --apply has changed.
    #[arg(long, group = "action")]
    pub(crate) revert: bool,
    /// Print a script that changes it.
    #[arg(long, group = "action", conflicts_with = "json")]
    pub(crate) emit: bool,
    /// Say what each tuner does, why, and what it costs.
    #[arg(long, group = "action", conflicts_with = "json")]
    pub(crate) explain: bool,
    /// Only this one; may be given several times.
    #[arg(long, value_enum, value_name = "TUNER", conflicts_with = "revert")]
    pub(crate) only: Vec<crate::verb::tune::Tuner>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Remember what is measured of the log's device: the next start writes by it.
    #[arg(long)]
    pub(crate) probe: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopologyArgs {
    /// Write a picture that needs nothing but itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Read the file and the environment, and lay it over this machine.
    Check(ConfigCheckArgs),
    /// Print every value with where it came from; the output is itself a configuration file.
    Show(ConfigShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigShowArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    pub(crate) verb: WalVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WalVerb {
    /// Read every frame and say what the log holds, where it ends and what is damaged. Changes nothing.
    Verify(WalVerifyArgs),
    /// Show every frame and record with the byte at which it stands: headers only, never what a message says.
    Dump(WalDumpArgs),
    /// Say what the log is made of: live and dead bytes, kinds of records, the fullest mailboxes, epochs, digests.
    Stats(WalStatsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WalDumpArgs {
    /// Folder of the log, or of one of its shards [default: the configuration's].
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Only this segment.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) segment: Option<u64>,
    /// Only what concerns this mailbox: the name of an agent, or its id in hexadecimal.
    #[arg(long, value_name = "NAME")]
    pub(crate) mailbox: Option<String>,
    /// Only what brings this message.
    #[arg(long, value_name = "MESSAGE_ID", value_parser = message_id)]
    pub(crate) message: Option<MessageId>,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WalStatsArgs {
    /// Folder of the log, or of one of its shards [default: the configuration's].
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WalVerifyArgs {
    /// Folder of the log, or of one of its shards [default: the configuration's].
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Folder to write to; it must be empty or not exist.
    #[arg(value_name = "DEST", required_unless_present = "tar", conflicts_with = "tar")]
    pub(crate) folder: Option<PathBuf>,
    /// Write a tar archive; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) tar: Option<PathBuf>,
    /// Put the node's certificate and private key and the secret keys of its audit log into it. Whoever has the backup can then
    /// pretend to be the node and sign another history.
    #[arg(long)]
    pub(crate) with_secrets: bool,
    /// Most bytes per second, such as "100 MiB".
    #[arg(long, value_name = "BYTES", value_parser = crate::verb::backup::parse_rate)]
    pub(crate) rate: Option<u64>,
    /// Print one JSON object; to standard error when the archive goes to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup: a folder, a tar archive, or `-` for an archive on standard input.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// The data folder to make; it must be empty or not exist. The logs go to `wal` in it.
    #[arg(value_name = "DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProofArgs {
    #[command(subcommand)]
    pub(crate) verb: ProofVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProofVerb {
    /// Write the proof of a message that is in this node's log. The log is only read; the node may run.
    Export(ProofExportArgs),
    /// Check a proof: needs the file, nothing else.
    Verify(ProofVerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProofExportArgs {
    /// Id of the message, as `creto send` and `creto recv` print it.
    #[arg(value_name = "MESSAGE_ID", value_parser = message_id)]
    pub(crate) message: MessageId,
    /// Only if this agent sent it: ids are chosen by senders.
    #[arg(long, value_name = "NAME", value_parser = agent_name)]
    pub(crate) from: Option<AgentName>,
    /// File to write; `-` is standard output [default: MESSAGE_ID.proof].
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Folder of the log [default: the configuration's].
    #[arg(long, value_name = "DIR")]
    pub(crate) log: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProofVerifyArgs {
    /// The proof; `-` reads it from standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Fail unless these keys signed it: the fingerprint that `creto agent show` prints for the sender.
    #[arg(long, value_name = "HEX")]
    pub(crate) expect_fingerprint: Option<Fingerprint>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder to write a page for each verb into, such as a `man1`.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

fn message_id(text: &str) -> Result<MessageId, String> {
    let id = MessageId::parse_hex(text).filter(MessageId::is_uuid_v7);
    id.ok_or_else(|| "a message id is a UUID of version 7, such as 019b76da-abe8-70e0-a0e0-e0e0e0e0e0e0".to_owned())
}

fn agent_name(text: &str) -> Result<AgentName, String> {
    AgentName::parse(text).map_err(|error| error.to_string())
}

impl Global {
    /// The file to read, whether it exists or not.
    pub(crate) fn config_path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(CONFIG_FILE))
    }

    /// The file `init` writes when it is asked to work in `folder`.
    pub(crate) fn config_path_in(&self, folder: &Path) -> PathBuf {
        match &self.config {
            Some(file) => file.clone(),
            None if folder == Path::new(".") => PathBuf::from(CONFIG_FILE),
            None => folder.join(CONFIG_FILE),
        }
    }

    /// The configuration of file and environment.
    pub(crate) fn load_config(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.config_path(), std::env::vars_os())?)
    }

    /// The configuration, or the defaults when nobody wrote or named a file; the second value says which.
    pub(crate) fn load_config_or_default(&self) -> Result<(Config, bool), Failure> {
        if self.config.is_none() && !self.config_path().exists() {
            return Ok((Config::parse(CONFIG_FILE, "", std::env::vars_os())?, false));
        }
        Ok((self.load_config()?, true))
    }
}

/// A size such as `10 GiB`.
fn file_size(text: &str) -> Result<u64, String> {
    creto_node::config::parse_size(text).ok_or_else(|| "expected a size, such as \"10 GiB\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
