use std::os::unix::fs::symlink;

use creto_node::config::Config;
use tempfile::TempDir;

use super::*;

/// A machine of four CPUs with a network device of two queues, as its files say.
fn machine() -> (TempDir, Host, Plan) {
    let root = tempfile::tempdir().expect("a folder");
    let put = |file: &str, text: &str| {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().expect("it has a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    };
    put("proc/sys/net/core/rmem_max", "212992\n");
    put("proc/sys/net/core/wmem_max", "99999999\n");
    for cpu in 0..4 {
        put(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"), "powersave\n");
    }
    put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    for irq in [40, 41] {
        put(&format!("sys/devices/pci0/virtio0/msi_irqs/{irq}"), "msix\n");
        put(&format!("proc/irq/{irq}/smp_affinity_list"), "0-3\n");
    }
    fs::create_dir_all(root.path().join("sys/class/net/eth0")).expect("a folder");
    symlink("../../../devices/pci0/virtio0", root.path().join("sys/class/net/eth0/device")).expect("a link");
    let host = Host { memlock_bytes: Some(8 << 20), ..Host::with_cpus(4) };
    let config = Config::parse("creto.toml", "[topology]\ncpus = \"0-1\"\n", []).expect("a configuration");
    let plan = Plan::resolve(&config, &host).expect("a plan");
    (root, host, plan)
}

fn all(root: &Path, host: &Host, plan: &Plan) -> Vec<Setting> {
    look(root, host, plan, &Tuner::ALL.into())
}

#[test]
fn what_differs_is_found_and_what_is_better_than_wanted_is_left() {
    let (root, host, plan) = machine();
    let settings = all(root.path(), &host, &plan);
    let states: Vec<_> = settings.iter().map(|of| (of.tuner, of.what.as_str(), of.state)).collect();
    assert_eq!(
        states,
        [
            (Tuner::SocketBuffers, "net.core.rmem_max", State::Differs),
            (Tuner::SocketBuffers, "net.core.wmem_max", State::Right),
            (Tuner::Governor, "CPU 0", State::Differs),
            (Tuner::Governor, "CPU 1", State::Differs),
            (Tuner::IrqAffinity, "eth0, interrupt 40", State::Differs),
            (Tuner::IrqAffinity, "eth0, interrupt 41", State::Differs),
            (Tuner::HugePages, "transparent huge pages", State::Differs),
            (
                Tuner::MemoryLock,
                "RLIMIT_MEMLOCK of this shell",
                if 8 << 20 >= plan.memlock_bytes_wanted { State::Right } else { State::Elsewhere }
            ),
        ]
    );
    // The shards have 0 and 1: the network's interrupts go to the others, each to its own.
    let irqs: Vec<_> =
        settings.iter().filter(|of| of.tuner == Tuner::IrqAffinity).map(|of| of.wanted.as_str()).collect();
    assert_eq!(irqs, ["2", "3"]);
    let some = look(root.path(), &host, &plan, &[Tuner::HugePages].into());
    assert_eq!((some.len(), some[0].wanted.as_str()), (1, "madvise"));
}

#[test]
fn a_machine_that_has_none_of_it_is_no_error() {
    let (root, host) = (tempfile::tempdir().expect("a folder"), Host::with_cpus(1));
    let plan = Plan::resolve(&Config::default(), &host).expect("a plan");
    let settings = all(root.path(), &host, &plan);
    assert!(settings.iter().all(|of| matches!(of.state, State::Unsupported | State::Right)), "{settings:?}");
    assert!(settings.iter().filter(|of| of.state == State::Unsupported).all(|of| !of.reason.is_empty()));
    assert_eq!(apply(root.path(), &settings).expect("nothing to do").len(), 0);
    assert!(!root.path().join(STATE_FILE).exists());
    assert_eq!(revert(root.path()).expect("nothing to do").len(), 0);
}

#[test]
fn what_was_applied_is_put_back_but_for_what_somebody_has_changed_since() {
    let (root, host, plan) = machine();
    let before = all(root.path(), &host, &plan);
    let outcomes = apply(root.path(), &before).expect("applied");
    assert!(outcomes.len() == 6 && outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Done), "{outcomes:?}");
    let settings = all(root.path(), &host, &plan);
    assert!(settings.iter().all(|of| of.change.is_none()), "{settings:?}");
    // Once more changes nothing, and forgets nothing.
    assert_eq!(apply(root.path(), &settings).expect("nothing to do").len(), 0);
    let rmem = Path::new("proc/sys/net/core/rmem_max");
    fs::write(root.path().join(rmem), "12345").expect("somebody sets it");
    let outcomes = revert(root.path()).expect("put back");
    let of = |file: &Path| outcomes.iter().find(|(change, _)| change.file == file).map(|(_, outcome)| outcome);
    assert_eq!(of(rmem), Some(&Outcome::Other("12345".to_owned())));
    assert_eq!(outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Done).count(), 5);
    assert_eq!(value(root.path(), Path::new("proc/irq/40/smp_affinity_list")).as_deref(), Some("0-3"));
    assert_eq!(value(root.path(), Path::new("sys/kernel/mm/transparent_hugepage/enabled")).as_deref(), Some("always"));
    assert!(!root.path().join(STATE_FILE).exists());
}

#[test]
fn what_was_there_at_first_is_put_back_after_two_changes() {
    let (root, host, plan) = machine();
    apply(root.path(), &all(root.path(), &host, &plan)).expect("applied");
    let governor = Path::new("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    fs::write(root.path().join(governor), "schedutil").expect("somebody sets it");
    apply(root.path(), &all(root.path(), &host, &plan)).expect("applied again");
    revert(root.path()).expect("put back");
    assert_eq!(value(root.path(), governor).as_deref(), Some("powersave"));
}

#[test]
fn a_remembered_file_that_nothing_here_sets_is_not_written() {
    let (root, host, plan) = machine();
    fs::create_dir_all(root.path().join("var/lib/creto")).expect("a folder");
    for file in ["etc/passwd", "proc/sys/../../etc/passwd", "/etc/passwd"] {
        let change = Change { file: file.into(), from: "x".to_owned(), to: "y".to_owned() };
        let text = serde_json::to_string(&Remembered { version: 1, changes: vec![change] }).expect("plain data");
        fs::write(root.path().join(STATE_FILE), text).expect("a file");
        assert!(revert(root.path()).is_err() && apply(root.path(), &all(root.path(), &host, &plan)).is_err(), "{file}");
    }
}

#[test]
fn the_script_does_what_applying_does() {
    let (root, host, plan) = machine();
    let settings = all(root.path(), &host, &plan);
    let script = script(&settings, &plan);
    for Change { file, to, .. } in settings.iter().filter_map(|setting| setting.change.as_ref()) {
        assert!(script.contains(&format!("echo {to} > /{}", file.display())), "{script}");
    }
    let bash = std::process::Command::new("sh").args(["-n", "-c", &script]).status().expect("a shell");
    assert!(bash.success(), "{script}");
}
