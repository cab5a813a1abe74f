use creto_io::executor::DriverKind;

use super::*;
use crate::host::Cpu;

fn config(cpus: &str, shards: &str) -> Config {
    let text = format!("[topology]\ncpus = {cpus}\nshards = {shards}\n");
    Config::parse("creto.toml", &text, []).unwrap()
}

/// Four cores of two threads as Linux counts them: the second threads come after all first ones.
fn four_cores_eight_threads() -> Host {
    let cpu = |cpu_index: u16| Cpu { cpu_index, core_index: cpu_index % 4, thread_of_core: u8::from(cpu_index >= 4) };
    Host { cpus: (0..8).map(cpu).collect(), ..Host::with_cpus(0) }
}

/// Resolves and compares the placement and the warnings, both as text.
fn check(host: &Host, cpus: &str, shards: &str, expect: &str) {
    let shown = match Plan::resolve(&config(cpus, shards), host) {
        Ok(plan) => {
            let warnings: String = plan.warnings.iter().map(|warning| format!(" | {warning}")).collect();
            format!("{} on {}{warnings}", plan.shard_count(), plan.cpus_text())
        }
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(shown, expect, "cpus = {cpus}, shards = {shards}");
}

#[test]
fn shards_are_laid_over_the_cpus_that_may_be_used() {
    let two = Host::with_cpus(2);
    check(&two, "\"auto\"", "\"auto\"", "2 on 0-1");
    check(&two, "\"auto\"", "1", "1 on 0");
    check(&two, "\"1\"", "\"auto\"", "1 on 1");
    check(&two, "\"1,0\"", "2", "2 on 1,0");
    check(&two, "\"auto\"", "8", "8 on unpinned | 8 shards share 2 CPUs and are not pinned; set topology.shards to 2");
    check(
        &two,
        "\"0-1\"",
        "1",
        "1 on 0 | no shard runs on CPU 1 of topology.cpus; raise topology.shards or leave it out",
    );
    check(
        &two,
        "\"0-1\"",
        "3",
        "error: topology.shards is 3, but topology.cpus names 2 (0-1); \
         lower shards to 2, name more CPUs, or set cpus = \"auto\" to let shards share",
    );
    check(
        &two,
        "\"0,5\"",
        "\"auto\"",
        "error: topology.cpus names CPU 5, but this machine has 0-1; name CPUs of that list",
    );
    check(
        &Host { online: (0..8).collect(), ..Host::with_cpus(2) },
        "\"0,5\"",
        "\"auto\"",
        "error: topology.cpus names CPU 5, but this process may only run on 0-1; \
         name CPUs of that list, or widen it (taskset, cpuset cgroup, docker --cpuset-cpus)",
    );
    check(
        &Host::with_cpus(0),
        "\"auto\"",
        "\"auto\"",
        "error: no CPU may be used by this process; check its cpuset (`taskset -cp $$`)",
    );
}

#[test]
fn an_affinity_mask_with_holes_is_respected() {
    let mut host = Host::with_cpus(8);
    host.cpus.retain(|cpu| [1, 4, 6].contains(&cpu.cpu_index));
    check(&host, "\"auto\"", "\"auto\"", "3 on 1,4,6");
    check(&host, "\"auto\"", "2", "2 on 1,4");
}

#[test]
fn whole_cores_are_taken_before_second_threads() {
    let host = four_cores_eight_threads();
    check(&host, "\"auto\"", "4", "4 on 0-3");
    check(&host, "\"auto\"", "\"auto\"", "8 on 0-7");
    check(
        &host,
        "\"0,4\"",
        "\"auto\"",
        "2 on 0,4 | CPUs 0 and 4 are two threads of one core while another core is free; \
         name one CPU per core in [topology]",
    );

    // Some machines count the two threads of a core one after the other.
    let cpu =
        |cpu_index: u16| Cpu { cpu_index, core_index: cpu_index / 2 * 2, thread_of_core: u8::from(cpu_index % 2 == 1) };
    let host = Host { cpus: (0..8).map(cpu).collect(), ..Host::with_cpus(0) };
    check(&host, "\"auto\"", "4", "4 on 0,2,4,6");
}

#[test]
fn a_cpu_quota_lowers_auto_and_warns_otherwise() {
    let host = Host { cpu_quota_millicpus: Some(2500), ..Host::with_cpus(64) };
    check(
        &host,
        "\"auto\"",
        "\"auto\"",
        "3 on 0-2 | the control group allows 2.5 CPUs to 3 shards and stops them when they are spent; \
         raise cpu.max, or lower topology.shards to 2",
    );
    check(&host, "\"auto\"", "2", "2 on 0-1");
    let host = Host { cpu_quota_millicpus: Some(300), ..Host::with_cpus(64) };
    check(
        &host,
        "\"auto\"",
        "\"auto\"",
        "1 on 0 | the control group allows 0.3 CPUs to 1 shards and stops them when they are spent; \
         raise cpu.max, or lower topology.shards to 1",
    );
}

#[test]
fn more_cpus_than_partitions_do_not_make_more_shards() {
    check(&Host::with_cpus(300), "\"auto\"", "\"auto\"", "256 on 0-255");
}

#[test]
fn memory_is_locked_by_the_driver_that_registers_its_buffers_and_by_no_other() {
    let locked = |driver: DriverKind, shards: &str| {
        let mut config = config("\"auto\"", shards);
        config.engine.driver = driver;
        let plan = Plan::resolve(&config, &Host::with_cpus(256)).unwrap();
        (plan.memlock_bytes_min, plan.memlock_bytes_wanted)
    };
    assert_eq!(locked(DriverKind::Glommio, "1"), (512 << 10, 512 << 10));
    assert_eq!(locked(DriverKind::Glommio, "4"), (512 << 10, (4 * 288) << 10));
    assert_eq!(locked(DriverKind::IoUring, "4"), (0, 0));
    assert_eq!(DriverKind::default(), DriverKind::IoUring);
}

#[test]
fn sizes_follow_the_number_of_shards() {
    let plan = |shards: &str| Plan::resolve(&config("\"auto\"", shards), &Host::with_cpus(256)).unwrap();
    let one = plan("1");
    assert_eq!(one.ring_slots, 4096);
    assert_eq!(one.wal_disk_bytes_max, 16 << 30);
    let four = plan("4");
    assert_eq!(four.ring_slots, 4096);
    assert_eq!(four.wal_disk_bytes_max, 64 << 30);
    let all = plan("256");
    assert_eq!(all.ring_slots, 16);
    for shards in 1..=256 {
        let plan = plan(&shards.to_string());
        assert!(plan.ring_slots.is_power_of_two());
        let slots = u64::from(plan.ring_slots) * shards * (shards - 1);
        assert!(slots <= u64::from(RING_SLOTS_TOTAL_MAX), "{shards} shards, {slots} slots");
    }
}

#[test]
fn memory_that_full_queues_would_exceed_is_a_warning() {
    let host = Host { memory_bytes: 2 << 30, ..Host::with_cpus(2) };
    check(
        &host,
        "\"auto\"",
        "\"auto\"",
        "2 on 0-1 | full mailboxes could take 2718 MiB and there are 2 GiB; \
         lower mailbox.cache_bytes, mailbox.shard_bytes_max or topology.shards",
    );
}

#[test]
fn crypto_workers_have_cpus_that_no_shard_has() {
    let check = |host: &Host, cpus: &str, crypto: &str, expect: &str| {
        let text = format!("[topology]\ncpus = {cpus}\ncrypto = {crypto}\n");
        let config = Config::parse("creto.toml", &text, []).unwrap();
        let shown = match Plan::resolve(&config, host) {
            Ok(plan) => {
                let warnings: String = plan.warnings.iter().map(|warning| format!(" | {warning}")).collect();
                format!("shards {}, workers {}{warnings}", plan.cpus_text(), cpu_list_text(&plan.crypto_cpus))
            }
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown, expect, "cpus = {cpus}, crypto = {crypto}");
    };
    let four = Host::with_cpus(4);
    check(&four, "\"auto\"", "\"inline\"", "shards 0-3, workers ");
    check(&four, "\"auto\"", "\"2-3\"", "shards 0-1, workers 2-3");
    check(&four, "\"0\"", "[3]", "shards 0, workers 3");
    check(
        &four,
        "\"0-1\"",
        "\"1-2\"",
        "error: CPU 1 is named in topology.cpus and in topology.crypto: a shard and a worker on one CPU take turns; \
         name it in one of them, or set crypto = \"inline\"",
    );
    check(
        &four,
        "\"auto\"",
        "\"4\"",
        "error: topology.crypto names CPU 4, but this machine has 0-3; name CPUs of that list",
    );
    check(
        &four,
        "\"auto\"",
        "\"0-3\"",
        "error: topology.crypto names all CPUs that this process may use (0-3), and no shard could run; \
         name fewer, or set crypto = \"inline\"",
    );
    check(
        &four_cores_eight_threads(),
        "\"0-1\"",
        "\"4\"",
        "shards 0-1, workers 4 | CPUs 0 and 4 are two threads of one core while another core is free; \
         name one CPU per core in [topology]",
    );
}
