use std::time::{Duration, Instant};

use creto_io::ring;

use super::*;

fn ports(shard_count: u16) -> Vec<ControlPort<Parcel<NodeItem>>> {
    ring::mesh::<Parcel<NodeItem>>(shard_count, 16).iter().map(ring::Ports::control_port).collect()
}

#[test]
fn workers_end_when_the_last_shard_has_gone() {
    let (workers, sender) = Workers::start(&[0, 0], &ports(2)).unwrap();
    drop([sender.clone(), sender]);
    let begun = Instant::now();
    workers.stop();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn without_cpus_there_are_no_workers() {
    let (workers, sender) = Workers::start(&[], &ports(1)).unwrap();
    assert!(sender.is_none());
    workers.stop();
}
