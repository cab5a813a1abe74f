//! A node of a few shards around any machine, and a client of quinn for it.
#![allow(clippy::unwrap_used, reason = "test support fails by panicking, like the test")]
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod echo;
pub(crate) mod judge;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use creto_io::executor::{DriverKind, ExecutorConfig, ShardThread, start};
use creto_io::ring::{ControlPort, mesh};
use creto_io::socket::bind_group;
use creto_io::watchdog::{Progress, Watched};
use creto_io::{Clock, DiskConfig, DriverConfig, DriverError, Durability, EncodeWrite, Machine, Parcel, StatsReader};
use creto_net::tls::{NodeIdentity, client_config, server_config_of};
use creto_net::{EndpointConfig, NetLimits, NodeKeys, client_transport};
use quinn::crypto::rustls::QuicClientConfig;

/// Each of these tests once with each driver.
#[allow(unused_macros, reason = "each test binary uses its part")]
macro_rules! on_each_driver {
    ($($test:ident),+ $(,)?) => {
        mod glommio {
            $(#[test] fn $test() { super::$test(creto_io::executor::DriverKind::Glommio); })+
        }
        mod io_uring {
            $(#[test] fn $test() { super::$test(creto_io::executor::DriverKind::IoUring); })+
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use on_each_driver;

pub(crate) fn digest_name(segment: u64) -> String {
    format!("segment-{segment:016x}.idx")
}

pub(crate) fn file_name(segment: u64) -> String {
    format!("segment-{segment:016x}.wal")
}

pub(crate) struct Shard<M: Machine + Send + 'static> {
    pub(crate) port: ControlPort<Parcel<M::Item>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stats: StatsReader,
    pub(crate) folder: PathBuf,
    thread: ShardThread<Result<M, DriverError>>,
}

/// What is seen of a shard from outside.
pub(crate) struct Ends<T> {
    pub(crate) port: ControlPort<Parcel<T>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stats: StatsReader,
    pub(crate) folder: PathBuf,
}

/// What a shard's driver is made of, and its ends.
pub(crate) type Part<T> = (DriverConfig<T>, Ends<T>);

/// What the drivers of `shard_count` shards are made of, each with its ends.
pub(crate) fn parts_of_a_node<T: Send>(
    durability: Durability,
    folder: &Path,
    shard_count: u16,
) -> (NodeIdentity, Vec<Part<T>>) {
    let identity = NodeIdentity::self_signed(&[]).unwrap();
    let keys = NodeKeys::derive(&identity.key_pkcs8);
    let tls = server_config_of(&identity).unwrap();
    let clock = Clock::start();
    let sockets = bind_group((Ipv4Addr::LOCALHOST, 0).into(), shard_count, 4 << 20).unwrap();
    let ports = mesh::<Parcel<T>>(shard_count, 1024);
    let parts = (0u16..).zip(ports).zip(sockets).map(|((shard_index, ports), socket)| {
        let folder = folder.join(format!("shard-{shard_index:04}"));
        std::fs::create_dir_all(&folder).unwrap();
        let shard_byte = u8::try_from(shard_index).unwrap();
        let (port, progress, stats) = (ports.control_port(), Arc::<Progress>::default(), StatsReader::default());
        let config = DriverConfig {
            endpoint: EndpointConfig {
                shard_index: shard_byte,
                limits: NetLimits::default(),
                tls: Arc::clone(&tls),
                keys: keys.clone(),
                seed: [shard_byte + 1; 32],
            },
            socket,
            disk: DiskConfig { folder: folder.clone(), file_name, digest_name, durability },
            clock,
            ports,
            progress: Arc::clone(&progress),
            stats: stats.clone(),
        };
        (config, Ends { port, progress, stats, folder })
    });
    let parts = parts.collect();
    (identity, parts)
}

pub(crate) struct Node<M: Machine + Send + 'static> {
    pub(crate) shards: Vec<Shard<M>>,
    pub(crate) address: SocketAddr,
    pub(crate) identity: NodeIdentity,
}

impl<M> Node<M>
where
    M: Machine + Send + 'static,
    M::Write: 'static,
{
    /// Starts `shard_count` shards, pinned to CPUs 0, 1, ... in turn.
    pub(crate) fn start(driver: DriverKind, folder: &Path, shard_count: u16, machine: impl FnMut(u16) -> M) -> Self {
        Self::start_with(driver, Durability::Fdatasync, folder, shard_count, machine)
    }

    /// The same, with writes that are made durable in this way.
    pub(crate) fn start_with(
        kind: DriverKind,
        durability: Durability,
        folder: &Path,
        shard_count: u16,
        mut machine: impl FnMut(u16) -> M,
    ) -> Self {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let (identity, parts) = parts_of_a_node(durability, folder, shard_count);
        let address = parts[0].0.socket.local_addr();
        let mut shards = Vec::new();
        for (shard_index, (config, ends)) in (0u16..).zip(parts) {
            let cpu = u16::try_from(usize::from(shard_index) % cpus).unwrap();
            let executor = ExecutorConfig { driver: kind, ..ExecutorConfig::new(shard_index, Some(cpu)) };
            let thread = start(&executor, config, machine(shard_index), || ()).unwrap();
            let Ends { port, progress, stats, folder } = ends;
            shards.push(Shard { port, progress, stats, folder, thread });
        }
        Self { shards, address, identity }
    }

    pub(crate) fn watched(&self) -> Vec<Watched> {
        let shards = (0u16..).zip(&self.shards);
        shards.map(|(index, shard)| Watched::new(index, Arc::clone(&shard.progress), shard.port.clone())).collect()
    }

    pub(crate) fn client_config(&self) -> quinn::ClientConfig {
        let tls = client_config(self.identity.certificate.clone());
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(client_transport(&NetLimits::default())));
        config
    }

    /// Tells every shard to stop with `item`, and gives the machines back.
    pub(crate) fn stop(self, mut item: impl FnMut() -> M::Item) -> Vec<M> {
        for shard in &self.shards {
            assert!(shard.port.send_item(item()).is_ok(), "the control ring has room");
        }
        self.shards.into_iter().map(|shard| shard.thread.join().unwrap().unwrap()).collect()
    }
}

/// A client endpoint of quinn on a free port.
pub(crate) fn client_endpoint(config: quinn::ClientConfig) -> quinn::Endpoint {
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

/// A tokio runtime for clients.
pub(crate) fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A write of whatever bytes it holds.
#[derive(Debug)]
pub(crate) struct Block(pub(crate) Vec<u8>);

impl EncodeWrite for Block {
    fn encode_into(self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }
}
