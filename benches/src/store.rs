//! The log on a real disk, beside what the disk does by itself: `creto bench store` prints these figures.
//!
//! Everything is real: the log of `creto-store`, the driver of `creto-io` on an executor as a node has it, a folder on the
//! device in question. Log and device take turns of half a second in the same run, because the rate of a shared device moves
//! by more than what is to be measured; the device is written with the block size, the number of writes in flight and, for
//! latencies, the pause between two writes that the log had in its turn just before.

mod device;
mod machine;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use creto_io::executor::{self, DriverKind, ExecutorConfig, ShardThread};
use creto_io::ring::{self, ControlPort};
use creto_io::watchdog::Progress;
use creto_io::{Clock, DiskConfig, DriverConfig, DriverError, Durability, Parcel, StatsReader, socket};
use creto_net::tls::{NodeIdentity, server_config_of};
use creto_net::{EndpointConfig, NetLimits, NodeKeys};
use creto_store::{FileSource, Wal, WalConfig, segment_file_name};
use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};

use self::device::Device;
use self::machine::{Done, Order, Report, StoreMachine};

/// How long log and device take turns.
const SLICE: Duration = Duration::from_millis(500);
/// How long an answer of the shard may take.
const ANSWER: Duration = Duration::from_secs(60);
/// What one shard is to hold, in messages per second.
const STEADY_MESSAGES_PER_S: u64 = 100_000;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// What carries out the shard's work.
    pub driver: DriverKind,
    /// How writes are made durable.
    pub durability: Durability,
    /// Writes on their way at once.
    pub writes_in_flight: usize,
    /// Messages that wait for their acknowledgement when the log is written as fast as it goes.
    pub messages_in_flight: u64,
    /// For each of the three loads.
    pub time: Duration,
    /// Whether trimmed segments are used again. Without it, every segment is made anew beside the load.
    pub recycle: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: DriverKind::default(),
            durability: Durability::Fdatasync,
            writes_in_flight: 2,
            messages_in_flight: 4_096,
            time: Duration::from_secs(6),
            recycle: true,
        }
    }
}

/// The figures, named as `creto bench store --json` names them. Latencies in microseconds, MB and GB of 10^6 and 10^9 bytes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Bytes that the log wrote durably per second, as fast as it goes.
    pub append_mb_per_s: f64,
    /// The same of the device, with blocks of the same size and as many in flight.
    pub device_mb_per_s: f64,
    /// The first by the second.
    pub append_ratio: f64,
    /// CPU time of the whole process per message.
    pub append_cpu_us_per_message: f64,
    /// Messages of 1 KiB durable per second, as fast as it goes.
    pub append_msgs_per_s: f64,
    /// Bytes of a group commit then.
    pub append_block_bytes: u64,
    /// Acknowledgement at a tenth of that load, median.
    pub ack_p50_us: u64,
    /// 99th percentile.
    pub ack_p99_us: u64,
    /// Write and sync of the device alone, at the size and pace of the group commits at that load.
    pub device_fdatasync_p50_us: u64,
    /// 99th percentile.
    pub device_fdatasync_p99_us: u64,
    /// The two 99th percentiles, the first by the second.
    pub ack_p99_ratio: f64,
    /// One group commit of the log at that load, 99th percentile.
    pub commit_p99_us: u64,
    /// What messages would have waited for the device alone, had each gone with the first write that began after it: while
    /// the device stalls it is one write that is slow, and every message that comes meanwhile. 99th percentile.
    pub device_wait_p99_us: u64,
    /// Acknowledgement at 100,000 messages/s.
    pub steady_ack_p99_us: u64,
    /// The device alone at the size and pace of the group commits at that load.
    pub steady_device_fdatasync_p99_us: u64,
    /// The first by the second.
    pub steady_ack_p99_ratio: f64,
    /// One group commit of the log at that load, 99th percentile.
    pub steady_commit_p99_us: u64,
    /// What messages would have waited for the device alone at that load, 99th percentile.
    pub steady_device_wait_p99_us: u64,
    /// Messages per second that were really durable at that load.
    pub steady_msgs_per_s: f64,
    /// CPU time of the whole process per message at that load.
    pub steady_cpu_us_per_message: f64,
    /// Reading back the log that this left, every checksum checked.
    pub recovery_gb_per_s: f64,
    /// `fdatasync` or `dsync`.
    pub sync_mode: &'static str,
    /// Writes on their way at once.
    pub writes_in_flight: usize,
}

/// Why nothing was measured.
#[derive(Debug)]
pub struct BenchError(String);

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BenchError {}

fn failed<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> BenchError {
    move |error| BenchError(format!("{what}: {error}"))
}

/// Measures in a folder that is empty. What it writes there, about a gigabyte, is left to whoever made the folder.
///
/// # Errors
/// The folder cannot be written to, or no shard can run here.
pub fn measure(folder: &Path, options: &Options) -> Result<Figures, BenchError> {
    let shard = StoreShard::start(folder, options)?;
    let device = Device::new(folder, options.durability).map_err(failed("the device cannot be written to"))?;

    let saturate = Order::Saturate { messages: options.messages_in_flight };
    // Until segments are there that can be used again.
    shard.run(saturate, options.time)?;
    let append = Turns::take(&shard, &device, saturate, options, None)?;
    let append_msgs_per_s = append.messages_per_s();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate far below 2^64")]
    let tenth = Order::Rate { messages_per_s: (append_msgs_per_s / 10.0) as u64 };
    let low = Turns::take(&shard, &device, tenth, options, Some(()))?;
    let steady = Order::Rate { messages_per_s: STEADY_MESSAGES_PER_S };
    let steady = Turns::take(&shard, &device, steady, options, Some(()))?;
    shard.stop()?;
    drop(device);

    let (recovered_bytes, recovery_took) = read_back(folder)?;
    let p = |histogram: &Histogram<u64>, quantile: f64| histogram.value_at_quantile(quantile);
    Ok(Figures {
        append_mb_per_s: append.log_mb_per_s(),
        device_mb_per_s: append.device_mb_per_s(),
        append_ratio: append.log_mb_per_s() / append.device_mb_per_s(),
        append_cpu_us_per_message: append.cpu_us_per_message(),
        append_msgs_per_s,
        append_block_bytes: append.block_bytes(),
        ack_p50_us: p(&low.acknowledged, 0.5),
        ack_p99_us: p(&low.acknowledged, 0.99),
        device_fdatasync_p50_us: p(&low.device, 0.5),
        device_fdatasync_p99_us: p(&low.device, 0.99),
        ack_p99_ratio: ratio(p(&low.acknowledged, 0.99), p(&low.device, 0.99)),
        commit_p99_us: p(&low.committed, 0.99),
        device_wait_p99_us: p(&low.device_wait, 0.99),
        steady_commit_p99_us: p(&steady.committed, 0.99),
        steady_device_wait_p99_us: p(&steady.device_wait, 0.99),
        steady_ack_p99_us: p(&steady.acknowledged, 0.99),
        steady_device_fdatasync_p99_us: p(&steady.device, 0.99),
        steady_ack_p99_ratio: ratio(p(&steady.acknowledged, 0.99), p(&steady.device, 0.99)),
        steady_msgs_per_s: steady.messages_per_s(),
        steady_cpu_us_per_message: steady.cpu_us_per_message(),
        recovery_gb_per_s: float(recovered_bytes) / recovery_took.as_secs_f64() / 1e9,
        sync_mode: match options.durability {
            Durability::Fdatasync => "fdatasync",
            Durability::Dsync => "dsync",
        },
        writes_in_flight: options.writes_in_flight,
    })
}

/// What log and device did in turns.
struct Turns {
    messages: u64,
    writes: u64,
    log_bytes: u64,
    log_us: u64,
    cpu: Duration,
    acknowledged: Histogram<u64>,
    committed: Histogram<u64>,
    device_bytes: u64,
    device_us: u64,
    device: Histogram<u64>,
    device_wait: Histogram<u64>,
}

impl Turns {
    /// `paced`: the device, too, is written at the log's pace instead of as fast as it goes.
    fn take(
        shard: &StoreShard,
        device: &Device,
        order: Order,
        options: &Options,
        paced: Option<()>,
    ) -> Result<Self, BenchError> {
        let histogram = || Histogram::new_with_max(60_000_000, 3).expect("a minute in microseconds is a valid range");
        let mut turns = Self {
            messages: 0,
            writes: 0,
            log_bytes: 0,
            log_us: 0,
            cpu: Duration::ZERO,
            acknowledged: histogram(),
            committed: histogram(),
            device_bytes: 0,
            device_us: 0,
            device: histogram(),
            device_wait: histogram(),
        };
        let began = Instant::now();
        while began.elapsed() < options.time {
            let cpu = process_cpu();
            let done = shard.run(order, SLICE)?;
            turns.cpu += process_cpu() - cpu;
            let block_bytes = usize::try_from(done.bytes / done.writes.max(1)).unwrap_or(usize::MAX);
            let (in_flight, pause) = match paced {
                Some(()) => (1, Duration::from_micros(done.took_us / done.writes.max(1))),
                None => (options.writes_in_flight, Duration::ZERO),
            };
            let of_device =
                device.run(block_bytes, in_flight, pause, SLICE).map_err(failed("the device cannot be written to"))?;
            turns.add(&done, &of_device);
        }
        Ok(turns)
    }

    fn add(&mut self, done: &Done, device: &device::DeviceDone) {
        self.messages += done.messages;
        self.writes += done.writes;
        self.log_bytes += done.bytes;
        self.log_us += done.took_us;
        self.acknowledged.add(&done.acknowledged).expect("both have the same range");
        self.committed.add(&done.committed).expect("both have the same range");
        self.device_bytes += device.bytes;
        self.device_us += u64::try_from(device.took.as_micros()).unwrap_or(u64::MAX);
        self.device.add(&device.durable).expect("both have the same range");
        self.device_wait.add(&device.waited).expect("both have the same range");
    }

    fn messages_per_s(&self) -> f64 {
        float(self.messages) * 1e6 / float(self.log_us)
    }

    fn log_mb_per_s(&self) -> f64 {
        float(self.log_bytes) / float(self.log_us)
    }

    fn device_mb_per_s(&self) -> f64 {
        float(self.device_bytes) / float(self.device_us)
    }

    fn block_bytes(&self) -> u64 {
        self.log_bytes / self.writes.max(1)
    }

    fn cpu_us_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / float(self.messages)
    }
}

/// One shard with a log and nothing else.
struct StoreShard {
    port: ControlPort<Parcel<Order>>,
    reports: Receiver<Report>,
    thread: ShardThread<Result<StoreMachine, DriverError>>,
}

impl StoreShard {
    fn start(folder: &Path, options: &Options) -> Result<Self, BenchError> {
        let config = WalConfig {
            writes_in_flight_max: options.writes_in_flight,
            recycled_segments_max: if options.recycle { 8 } else { 0 },
            ..WalConfig::default()
        };
        let recovered = creto_store::recover(&mut FileSource::new(folder), 0, |_, _| {})
            .map_err(failed("the folder holds a log that cannot be read"))?;
        let wal = Wal::open(config, recovered, 7, 1_700_000_000_000);
        let identity = NodeIdentity::self_signed(&[]).map_err(failed("no certificate can be made"))?;
        let tls = server_config_of(&identity).map_err(failed("the certificate cannot be used"))?;
        // The driver wants a socket and its end of a ring; nobody writes to either.
        let mut sockets = socket::bind_group((Ipv4Addr::LOCALHOST, 0).into(), 1, 1 << 16)
            .map_err(failed("no UDP socket can be opened"))?;
        let mut meshes = ring::mesh::<Parcel<Order>>(1, 64);
        let (ports, socket) = (meshes.remove(0), sockets.remove(0));
        let port = ports.control_port();
        let driver = DriverConfig {
            endpoint: EndpointConfig {
                shard_index: 0,
                limits: NetLimits::default(),
                tls,
                keys: NodeKeys::derive(&identity.key_pkcs8),
                seed: [1; 32],
            },
            socket,
            disk: DiskConfig {
                folder: folder.to_owned(),
                file_name: |number| segment_file_name(creto_store::SegmentNumber(number)),
                digest_name: |number| creto_store::digest_file_name(creto_store::SegmentNumber(number)),
                durability: options.durability,
            },
            clock: Clock::start(),
            ports,
            progress: Arc::new(Progress::default()),
            stats: StatsReader::default(),
        };
        let (report, reports) = mpsc::channel();
        let machine = StoreMachine::new(wal, report);
        let executor = ExecutorConfig { driver: options.driver, ..ExecutorConfig::new(0, None) };
        let thread = executor::start(&executor, driver, machine, || ()).map_err(failed("no shard can run here"))?;
        Ok(Self { port, reports, thread })
    }

    /// Has the shard work for a while and waits until all of it is durable.
    fn run(&self, order: Order, time: Duration) -> Result<Done, BenchError> {
        self.tell(order)?;
        match self.reports.recv_timeout(time) {
            Ok(report) => return Err(stopped(report)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        }
        self.tell(Order::Rest)?;
        self.reports.recv_timeout(ANSWER).map_err(|_| gone())?.map_err(BenchError)
    }

    fn stop(self) -> Result<(), BenchError> {
        self.tell(Order::Stop)?;
        let ended = self.thread.join().map_err(failed("no shard can run here"))?;
        ended.map(drop).map_err(failed("the shard ended"))
    }

    fn tell(&self, order: Order) -> Result<(), BenchError> {
        self.port.send_item(order).map_err(|_| gone())
    }
}

fn stopped(report: Report) -> BenchError {
    BenchError(report.err().unwrap_or_else(|| "the shard rests although it was not asked to".to_owned()))
}

fn gone() -> BenchError {
    BenchError("the shard does not answer; see `creto doctor`".to_owned())
}

/// Reads the log back as a start does. Returns the bytes of its segments and the time it took.
fn read_back(folder: &Path) -> Result<(u64, Duration), BenchError> {
    let bytes = || -> io::Result<u64> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<io::Result<u64>>()
    };
    let bytes = bytes().map_err(failed("the folder cannot be read"))?;
    let began = Instant::now();
    creto_store::recover(&mut FileSource::new(folder), 0, |_, _| {}).map_err(failed("the log cannot be read back"))?;
    Ok((bytes, began.elapsed()))
}

fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("this clock is always there").into()
}

fn ratio(a: u64, b: u64) -> f64 {
    float(a) / float(b.max(1))
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
