use creto_envelope::{AgentName, TreeDigest};
use creto_io::executor::DriverKind;
use creto_service::Enrolment;
use std::ffi::OsString;

use proptest::prelude::*;

use super::*;

fn env(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

/// Reads `text` with `variables` and compares the whole error, excerpt and caret included.
fn check_error(text: &str, variables: &[(&str, &str)], expect: &str) {
    let error = Config::parse("creto.toml", text, env(variables)).expect_err("this must not be understood");
    let shown = error.to_string();
    assert_eq!(shown.trim_end(), expect.trim_matches('\n').trim_end(), "\n--- shown:\n{shown}\n---");
}

fn check_value(text: &str, key: &str, expect: &str) {
    let config = Config::parse("creto.toml", text, []).unwrap();
    let row = config.show().into_iter().find(|row| format!("{}.{}", row.section, row.name) == key).unwrap();
    assert_eq!(row.value, expect);
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("creto.toml", "", []).unwrap(), Config::default());
}

#[test]
fn an_unknown_key_names_the_nearest_and_points_at_it() {
    check_error(
        "# a log\n[wal]\ndir = \"wal\"\nsegment_byte = \"64 MiB\" # too many?\n",
        &[],
        r#"
creto.toml:4:1: unknown key `segment_byte` in [wal]
  |
4 | segment_byte = "64 MiB" # too many?
  | ^^^^^^^^^^^^ did you mean `segment_bytes`?"#,
    );
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_its_own() {
    check_error(
        "[net]\n  trust_domain = \"acme.example\"\n",
        &[],
        r#"
creto.toml:2:3: unknown key `trust_domain` in [net]
  |
2 |   trust_domain = "acme.example"
  |   ^^^^^^^^^^^^ it belongs in [node]"#,
    );
}

#[test]
fn a_key_like_nothing_gets_the_list() {
    check_error(
        "[topology]\nzebra = 1\n",
        &[],
        r#"
creto.toml:2:1: unknown key `zebra` in [topology]
  |
2 | zebra = 1
  | ^^^^^ the keys of [topology] are cpus, shards, crypto"#,
    );
}

#[test]
fn an_unknown_section_names_the_nearest() {
    check_error(
        "[toplogy]\ncpus = \"auto\"\n",
        &[],
        r#"
creto.toml:1:2: unknown section [toplogy]
  |
1 | [toplogy]
  |  ^^^^^^^ did you mean [topology]?"#,
    );
}

#[test]
fn a_key_outside_any_section_is_told_where_it_belongs() {
    check_error(
        "listen = \"127.0.0.1:1\"\n",
        &[],
        r#"
creto.toml:1:1: key `listen` stands outside any section
  |
1 | listen = "127.0.0.1:1"
  | ^^^^^^ it belongs in [node]"#,
    );
}

#[test]
fn a_section_written_as_a_value_is_explained() {
    check_error(
        "wal = 3\n",
        &[],
        r#"
creto.toml:1:1: `wal` is a section, not the number 3
  |
1 | wal = 3
  | ^^^ write [wal] on a line of its own, its keys below it"#,
    );
}

#[test]
fn a_wrong_type_points_at_the_value() {
    check_error(
        "[net]\nconnections_max = \"many\"\n",
        &[],
        r#"
creto.toml:2:19: net.connections_max: expected a whole number, found the string "many"
  |
2 | connections_max = "many"
  |                   ^^^^^^"#,
    );
    check_error(
        "[wal]\nsegment_bytes = true\n",
        &[],
        r#"
creto.toml:2:17: wal.segment_bytes: expected a size such as 4096 or "64 MiB", found a boolean
  |
2 | segment_bytes = true
  |                 ^^^^"#,
    );
}

#[test]
fn a_number_out_of_range_names_the_range() {
    check_error(
        "[topology]\nshards = 300\n",
        &[],
        r#"
creto.toml:2:10: topology.shards: 300 is out of range: from 1 to 256, or "auto"
  |
2 | shards = 300
  |          ^^^"#,
    );
    check_error(
        "[wal]\nsegment_bytes = \"1 KiB\"\n",
        &[],
        r#"
creto.toml:2:17: wal.segment_bytes: 1 KiB is out of range: from 8 MiB to 2 GiB
  |
2 | segment_bytes = "1 KiB"
  |                 ^^^^^^^"#,
    );
    check_error(
        "[net]\nidle_timeout_s = -1\n",
        &[],
        r#"
creto.toml:2:18: net.idle_timeout_s: -1 is out of range: from 1 to 3600
  |
2 | idle_timeout_s = -1
  |                  ^^"#,
    );
    check_error(
        "[net]\nidle_timeout_s = 0xffffffffffffffffffffffffffffffffff\n",
        &[],
        r#"
creto.toml:2:18: net.idle_timeout_s: expected a whole number, found a number too long for any key
  |
2 | idle_timeout_s = 0xffffffffffffffffffffffffffffffffff
  |                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_wrong_word_names_the_nearest() {
    check_error(
        "[log]\nlevel = \"warning\"\nformat = 3\n",
        &[],
        r#"
creto.toml:2:9: log.level: expected one of "error", "warn", "info", "debug", "trace", found the string "warning"
  |
2 | level = "warning"
  |         ^^^^^^^^^

creto.toml:3:10: log.format: expected one of "text", "json", found the number 3
  |
3 | format = 3
  |          ^"#,
    );
    check_error(
        "[log]\nlevel = \"inof\"\n",
        &[],
        r#"
creto.toml:2:9: log.level: "inof" is not one of "error", "warn", "info", "debug", "trace": did you mean "info"?
  |
2 | level = "inof"
  |         ^^^^^^"#,
    );
}

#[test]
fn a_broken_line_is_shown_where_it_breaks() {
    check_error(
        "[node]\nlisten = 127.0.0.1:7443\n",
        &[],
        r#"
creto.toml:2:15: this is not TOML: invalid float
  |
2 | listen = 127.0.0.1:7443
  |               ^^^^^^^^^ text stands in quotes: listen = "127.0.0.1:7443""#,
    );
}

#[test]
fn a_key_written_twice_is_an_error() {
    check_error(
        "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
        &[],
        r#"
creto.toml:3:1: this is not TOML: duplicate key
  |
3 | level = "warn"
  | ^^^^^"#,
    );
}

#[test]
fn every_problem_is_listed_at_once_in_the_order_of_the_file() {
    check_error(
        "[wal]\nsegment_bytes = 1\n[log]\nlevl = \"info\"\n",
        &[("CRETO__NET__IDLE_TIMEOUT_S", "soon"), ("CRETO__WAL__DIRR", "x")],
        r#"
creto.toml:2:17: wal.segment_bytes: 1 B is out of range: from 8 MiB to 2 GiB
  |
2 | segment_bytes = 1
  |                 ^

creto.toml:4:1: unknown key `levl` in [log]
  |
4 | levl = "info"
  | ^^^^ did you mean `level`?

CRETO__NET__IDLE_TIMEOUT_S: net.idle_timeout_s: expected a whole number, found "soon"

CRETO__WAL__DIRR: unknown configuration variable: did you mean CRETO__WAL__DIR?"#,
    );
}

#[test]
fn a_variable_in_lower_case_is_an_error_not_silence() {
    check_error(
        "",
        &[("creto__log__level", "info")],
        "creto__log__level: unknown configuration variable: did you mean CRETO__LOG__LEVEL?",
    );
    check_error(
        "",
        &[("CRETO__SOMETHING", "x")],
        "CRETO__SOMETHING: unknown configuration variable: `creto config show` lists the keys",
    );
}

#[test]
fn a_variable_with_too_few_underscores_is_an_error_and_what_is_not_meant_for_a_key_is_not() {
    for (name, meant) in [
        ("CRETO_ENGINE_DRIVER", "CRETO__ENGINE__DRIVER"),
        ("CRETO_ENGINE__DRIVER", "CRETO__ENGINE__DRIVER"),
        ("CRETO__ENGINE_DRIVER", "CRETO__ENGINE__DRIVER"),
        ("CRETO_ENGINE_DRIVR", "CRETO__ENGINE__DRIVER"),
        ("creto_log_level", "CRETO__LOG__LEVEL"),
        ("CRETO_WAL_DIR", "CRETO__WAL__DIR"),
    ] {
        check_error("", &[(name, "x")], &format!("{name}: unknown configuration variable: did you mean {meant}?"));
    }
    let mut others = vec!["CRETO_CONFIG".to_owned(), "CRETO_SEED".to_owned(), "CRETO_WRITE_DOCS".to_owned()];
    others.extend(["CRETO_ENROLMENT_TOKEN", "CRETO_PASSPHRASE_FILE", "CRETO_PREKEYS", "CRETO"].map(str::to_owned));
    // What Kubernetes sets for services that are called creto, or creto- and a section.
    for section in std::iter::once(String::new()).chain(Config::keys().iter().map(|key| format!("{}_", key.section))) {
        for end in ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_QUIC", "PORT", "PORT_7443_UDP", "PORT_7443_UDP_ADDR"]
        {
            others.push(format!("CRETO_{}{end}", section.to_uppercase()));
        }
    }
    for name in others {
        let read = Config::parse("creto.toml", "", env(&[(&name, "x")]));
        assert!(read.is_ok_and(|config| config == Config::default()), "{name}");
    }
}

#[test]
fn values_that_contradict_each_other_are_blamed_on_the_one_that_was_written() {
    check_error(
        "[wal]\nsegment_bytes = \"2 GiB\"\nwal_bytes_max = \"8 GiB\"\n",
        &[],
        r#"
creto.toml:3:17: wal.wal_bytes_max: 8 GiB is less than five segments of 2 GiB
  |
3 | wal_bytes_max = "8 GiB"
  |                 ^^^^^^^ give it 10 GiB or make segments smaller"#,
    );
    check_error(
        "[wal]\nsegment_bytes = 8388609\n",
        &[],
        r#"
creto.toml:2:17: wal.segment_bytes: 8388609 B is not a multiple of 4 KiB
  |
2 | segment_bytes = 8388609
  |                 ^^^^^^^ the next one is 8196 KiB"#,
    );
    check_error(
        "",
        &[("CRETO__NET__IN_FLIGHT_MESSAGES_MAX", "1000")],
        "CRETO__NET__IN_FLIGHT_MESSAGES_MAX: net.in_flight_messages_max: 1000 is less than one batch of 1024 messages: \
         a full batch could never be sent",
    );
    check_error(
        "mailbox.max_deliveries = 1\n",
        &[],
        r#"
creto.toml:1:26: mailbox.max_deliveries: 1 is too few
  |
1 | mailbox.max_deliveries = 1
  |                          ^ the least is 2, or 0 for never: one crash of a consumer would lose it the session that the message opens"#,
    );
}

#[test]
fn a_socket_path_that_the_kernel_cannot_bind_is_refused() {
    let long = "d".repeat(120);
    let error = Config::parse("creto.toml", &format!("[node]\ndata_dir = \"{long}\"\n"), []).unwrap_err().to_string();
    assert!(error.starts_with("creto.toml:2:12: control.socket: "), "{error}");
    assert!(error.contains("longer than the 107 bytes"), "{error}");
}

#[test]
fn carets_stand_under_the_place_behind_tabs_and_wide_text() {
    check_error(
        "[topology]\n\tshards\t= \"viele\" # für später\n",
        &[],
        "\ncreto.toml:2:11: topology.shards: expected \"auto\" or a number of shards, found the string \"viele\"\n  |\n2 | \tshards\t= \"viele\" # für später\n  | \t      \t  ^^^^^^^",
    );
}

#[test]
fn nothing_that_moves_the_cursor_reaches_the_terminal() {
    let error = Config::parse("creto.toml", "[log]\nlevel = \"in\\u001bfo\" # \u{7f}\n", []).unwrap_err().to_string();
    assert!(!error.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{error:?}");
}

#[test]
fn the_password_of_a_database_is_shown_nowhere() {
    let text = "[control]\ndatabase = \"postgres://creto:hunter2@db.example/agents?sslrootcert=ca.pem\"\n";
    let config = Config::parse("creto.toml", text, []).unwrap();
    let shown = "\"postgres://creto@db.example/agents?sslrootcert=ca.pem\"";
    check_value(text, "control.database", shown);
    for written in [config.to_toml(), format!("{config:?}"), format!("{:?}", config.show())] {
        assert!(!written.contains("hunter2"), "{written}");
    }
    assert_eq!(config.database().unwrap().without_password(), shown.trim_matches('"'));
    let from_environment = [("CRETO__CONTROL__DATABASE", "postgres://creto:hunter2@/agents?sslmode=prefer")];
    for (text, variables) in [
        ("[control]\ndatabase = \"postgres://creto:hunter2@db/agents?sslmode=prefer\"\n", &[][..]),
        ("[control]\ndatabase = \"creto:hunter2@db/agents\"\n", &[]),
        ("[control]\ndatabase = postgres://creto:hunter2@db/agents\n", &[]),
        ("[control]\ndatabase = [\"postgres://creto:hunter2@db/agents\"]\n", &[]),
        ("[control]\ndatabase = creto:hunter2@db/agents\n", &[]),
        ("[control]\ndatabase = \"postgres://creto:hun?hunter2@db/agents\"\n", &[]),
        ("[control]\ndatabase = \"postgres://creto:h@hunter2@db/agents\"\n", &[]),
        ("[control]\ndatabase = \"postgres://creto@db/agents?password=hunter2&sslmode=prefer\"\n", &[]),
        ("[control]\ndatabase = \"postgres://creto@db/agents?%70assword=hunter2\"\n", &[]),
        ("[control]\ndatabase = \"postgres:/creto:hunter2@db/agents\"\n", &[]),
        ("", &from_environment),
    ] {
        let error = Config::parse("creto.toml", text, env(variables)).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("database"), "{error}");
    }
}

#[test]
fn a_line_without_end_does_not_fill_the_screen() {
    let text = format!("[log]\nformat = \"{}\"\n", "x".repeat(100_000));
    let error = Config::parse("creto.toml", &text, []).unwrap_err().to_string();
    assert!(error.chars().count() < 600, "{} characters", error.chars().count());
}

#[test]
fn a_file_that_is_not_text_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creto.toml");
    std::fs::write(&path, b"[log]\nlevel = \"\xff\"\n").unwrap();
    let error = Config::load(&path, []).unwrap_err().to_string();
    assert!(error.contains("creto.toml:2:10: this is not UTF-8 text"), "{error}");
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Config::load(Path::new("/nonexistent/creto.toml"), []).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nonexistent/creto.toml: "), "{error}");
    assert!(error.ends_with("make one with `creto init`, or name another with --config"), "{error}");
}

#[test]
fn a_variable_wins_over_the_file_and_is_named_as_origin() {
    let config =
        Config::parse("creto.toml", "[log]\nlevel = \"warn\"\n", env(&[("CRETO__LOG__LEVEL", "debug")])).unwrap();
    assert_eq!(config.log.level, LogLevel::Debug);
    let origins: Vec<_> = config.show().into_iter().filter(|row| row.origin != Origin::Default).collect();
    assert_eq!(origins.len(), 1);
    assert_eq!(origins[0].origin, Origin::Variable { name: "CRETO__LOG__LEVEL".to_owned() });
}

#[test]
fn every_key_has_a_variable_that_sets_it() {
    for key in Config::keys() {
        let value = key.default.trim_matches('"').to_owned();
        let config = Config::parse("creto.toml", "", env(&[(&key.variable, &value)]))
            .unwrap_or_else(|error| panic!("{} = {value}: {error}", key.variable));
        let row = config.show().into_iter().find(|row| row.section == key.section && row.name == key.name).unwrap();
        assert_eq!(row.origin, Origin::Variable { name: key.variable });
        assert_eq!(row.value, key.default);
    }
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (written, shown) in [
        ("67108864", "\"64 MiB\""),
        ("67_108_864", "\"64 MiB\""),
        ("0x4000000", "\"64 MiB\""),
        ("\"64 MiB\"", "\"64 MiB\""),
        ("\"64MiB\"", "\"64 MiB\""),
        ("\"65536 KiB\"", "\"64 MiB\""),
        ("\"67108864\"", "\"64 MiB\""),
    ] {
        check_value(&format!("[wal]\nsegment_bytes = {written}\n"), "wal.segment_bytes", shown);
    }
    for wrong in ["\"64 MB\"", "\"64 mib\"", "\"MiB\"", "\"\"", "\"-1 MiB\"", "6.4e7", "\"999999999999999999999 TiB\""]
    {
        let text = format!("[wal]\nsegment_bytes = {wrong}\n");
        Config::parse("creto.toml", &text, []).expect_err(wrong);
    }
}

#[test]
fn a_grace_period_is_read_with_its_unit_and_within_its_range() {
    for (written, shown) in [
        ("\"7d\"", "\"7d\""),
        ("\"1h\"", "\"1h\""),
        ("\"48h\"", "\"2d\""),
        ("\"90 m\"", "\"90m\""),
        ("\"3601s\"", "\"3601s\""),
        ("\"30d\"", "\"30d\""),
    ] {
        check_value(&format!("[keys]\ngrace = {written}\n"), "keys.grace", shown);
    }
    for (wrong, says) in [
        ("7", "expected a time with its unit such as \"7d\" or \"12h\", found the number 7"),
        ("\"7\"", "expected a time with its unit"),
        ("\"7 days\"", "expected a time with its unit"),
        ("\"d\"", "expected a time with its unit"),
        ("\"99999999999999999999d\"", "expected a time with its unit"),
        ("\"59m\"", "59m is out of range: from 1h to 30d"),
        ("\"31d\"", "31d is out of range: from 1h to 30d"),
    ] {
        let error = Config::parse("creto.toml", &format!("[keys]\ngrace = {wrong}\n"), []).expect_err(wrong);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn cpus_are_read_as_a_list_or_an_array() {
    for (written, shown) in [
        ("\"auto\"", "\"auto\""),
        ("\"0,2-3\"", "\"0,2-3\""),
        ("[0, 2, 3]", "\"0,2-3\""),
        ("\" 5 , 1 \"", "\"5,1\""),
        ("[3, 2, 1, 0]", "\"3,2,1,0\""),
    ] {
        check_value(&format!("[topology]\ncpus = {written}\n"), "topology.cpus", shown);
    }
    for wrong in ["\"\"", "[]", "\"3-1\"", "\"0,0\"", "[1, 1]", "[\"a\"]", "\"0-\"", "[-1]", "9", "[9000]"] {
        Config::parse("creto.toml", &format!("[topology]\ncpus = {wrong}\n"), []).expect_err(wrong);
    }
}

#[test]
fn addresses_and_names_are_checked() {
    check_value("[node]\nlisten = \"[::]:7443\"\n", "node.listen", "\"[::]:7443\"");
    check_value("[control]\nlisten = \"127.0.0.1:7440\"\n", "control.listen", "\"127.0.0.1:7440\"");
    check_value("[control]\nlisten = \"\"\n", "control.listen", "\"\"");
    check_value(
        "[control]\nadministrators = [\"acme/ops\", \"acme/night\"]\n",
        "control.administrators",
        "\"acme/ops, acme/night\"",
    );
    check_value(
        "[control]\nadministrators = \"acme/ops, acme/night\"\n",
        "control.administrators",
        "\"acme/ops, acme/night\"",
    );
    check_value("[node]\nadvertise = \"node-1.example:7443\"\n", "node.advertise", "\"node-1.example:7443\"");
    for wrong in [
        "listen = \"localhost:7443\"",
        "listen = \"127.0.0.1\"",
        "advertise = \"node-1\"",
        "advertise = \"node 1:7443\"",
        "advertise = \"node-1:0\"",
        "trust_domain = \"Creto.Local\"",
        "trust_domain = \"\"",
        "trust_domain = \"a..b\"",
        "trust_domain = \"a/b\"",
        "data_dir = \"\"",
        "data_dir = \"a\\u0000b\"",
    ] {
        Config::parse("creto.toml", &format!("[node]\n{wrong}\n"), []).expect_err(wrong);
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("creto.toml");
    std::fs::write(&path, "[node]\ndata_dir = \"d\"\n[wal]\ndir = \"/fast/wal\"\n").unwrap();
    let config = Config::load(&path, []).unwrap();
    assert_eq!(config.data_dir(), dir.path().join("d"));
    assert_eq!(config.wal_dir(), Path::new("/fast/wal"));
    assert_eq!(config.control_socket(), dir.path().join("d/control.sock"));
}

#[test]
fn the_template_is_the_default_with_its_lines_open_or_closed() {
    let closed = Config::template(&[]);
    assert_eq!(Config::parse("creto.toml", &closed, []).unwrap(), Config::default());

    let is_key = |line: &str| {
        let name = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")).map(|(name, _)| name);
        name.is_some_and(|name| Config::keys().iter().any(|key| key.name == name))
    };
    let open: String = closed
        .lines()
        .map(|line| if is_key(line) { &line[2..] } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = Config::parse("creto.toml", &open, []).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.show().iter().all(|row| row.origin != Origin::Default), "a key is missing from the template");

    let chosen = Config::template(&[("node.listen", "\"[::1]:1\"".to_owned())]);
    assert_eq!(Config::parse("creto.toml", &chosen, []).unwrap().node.listen.to_string(), "[::1]:1");
}

#[test]
fn what_is_shown_names_line_and_file() {
    let text = Config::parse("creto.toml", "[topology]\nshards = 2\n", []).unwrap().to_toml();
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines.contains(&"shards = 2 # creto.toml:2".to_owned()), "{text}");
    assert!(lines.contains(&"cpus = \"auto\" # default".to_owned()), "{text}");
}

/// A configuration with any value that a file could give.
fn any_config() -> impl Strategy<Value = Config> {
    let node = (
        any::<std::net::SocketAddr>(),
        "([a-z0-9]{1,9}:[1-9][0-9]{0,3})?",
        "[^\\x00]{1,40}",
        "[a-z]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
    );
    let topology = (
        prop_oneof![
            Just(Cpus::Auto),
            proptest::collection::hash_set(0u16..8192, 1..20).prop_map(|cpus| Cpus::List(cpus.into_iter().collect()))
        ],
        prop_oneof![Just(Shards::Auto), (1u16..=256).prop_map(Shards::Exactly)],
    );
    let wal = (2048u64..=1 << 19, 5u64..1000, 1u16..=8);
    let mailbox = (1u32..=10_000_000, 2u64 << 20..=1 << 40, 16_385u32..=4_194_304);
    let net = (1u32..=1_000_000, 1_024u32..=16_384, 1u32..=1_024, 64u64 << 10..=2 << 20, 1u32..=3600);
    let log = (
        prop_oneof![Just(LogLevel::Error), Just(LogLevel::Info), Just(LogLevel::Trace)],
        prop_oneof![Just(LogFormat::Text), Just(LogFormat::Json)],
    );
    let grace_s = 3_600u32..=30 * 86_400;
    (node, topology, wal, mailbox, net, grace_s, log).prop_map(|(node, topology, wal, mailbox, net, grace_s, log)| {
        let mut config = Config::default();
        // The scope id of an IPv6 address is the number of an interface: no one writes it in a file.
        config.node.listen = SocketAddr::new(node.0.ip(), node.0.port());
        config.node.advertise = node.1;
        config.node.data_dir = PathBuf::from(node.2);
        config.node.trust_domain = node.3;
        (config.topology.cpus, config.topology.shards) = topology;
        config.wal.segment_bytes = wal.0 * 4096;
        config.wal.wal_bytes_max = wal.1 * config.wal.segment_bytes;
        (config.wal.sync, config.wal.writes_in_flight) = match wal.2 {
            1 => (WalSync::Auto, WritesInFlight::Auto),
            count if count % 2 == 0 => (WalSync::Fdatasync, WritesInFlight::Exactly(count)),
            count => (WalSync::Dsync, WritesInFlight::Exactly(count)),
        };
        config.mailbox = MailboxSection {
            messages_max: mailbox.0,
            bytes_max: mailbox.1,
            shard_bytes_max: mailbox.1.max(64 << 20),
            cache_bytes: mailbox.1 / 2,
            dedup_window_messages: mailbox.2,
            dedup_window: Duration::from_secs(u64::from(grace_s) / 31 + 600),
            retention: Duration::from_secs(u64::from(grace_s) / 3 + 3_600),
            redelivery_base_ms: grace_s,
            redelivery_max_ms: 2 * grace_s,
            max_deliveries: Some(mailbox.0 % 256).filter(|most| *most != 1).unwrap_or(2),
        };
        config.net = NetSection {
            connections_max: net.0,
            in_flight_messages_max: net.1,
            batch_messages_max: net.2,
            batch_bytes_max: net.3,
            idle_timeout_s: net.4,
        };
        config.control.socket = PathBuf::from("/run/creto.sock");
        config.control.enrolment = if log.1 == LogFormat::Json { Enrolment::Token } else { Enrolment::Open };
        config.control.listen = (log.1 == LogFormat::Json).then(|| "[::1]:7440".parse().expect("an address"));
        config.metrics.listen = (log.1 == LogFormat::Text).then(|| "127.0.0.1:9464".parse().expect("an address"));
        config.control.administrators = ["acme/ops", "acme/night"][..grace_s as usize % 3]
            .iter()
            .map(|name| AgentName::parse(name).expect("a name"))
            .collect();
        config.control.spiffe_bundle = PathBuf::from(if log.1 == LogFormat::Json { "bundle.pem" } else { "" });
        let url = "postgres://creto@db.example:6432/agents?sslrootcert=ca.pem";
        config.control.database = (log.1 == LogFormat::Json).then(|| url.parse().expect("a URL"));
        config.keys.grace = Duration::from_secs(u64::from(grace_s));
        config.audit.retention = Duration::from_secs(u64::from(grace_s) * 25);
        config.alerts.denials = grace_s % 1_000_001;
        config.alerts.denials_window = Duration::from_secs(u64::from(grace_s) / 30);
        config.engine.driver = DriverKind::ALL[grace_s as usize % 2];
        config.crypto.tree_digest = if log.1 == LogFormat::Json { TreeDigest::Sha3_256 } else { TreeDigest::Sha256 };
        config.log = LogSection { level: log.0, format: log.1 };
        config
    })
}

proptest! {
    #[test]
    fn what_is_shown_reads_back_equal(config in any_config()) {
        let text = config.to_toml();
        let read = Config::parse("creto.toml", &text, []).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(read, config);
    }

    #[test]
    fn no_text_panics(text in "\\PC*|(\\[[a-z]{0,4}\\]|[a-z_]{1,9} ?= ?(\"[^\"]{0,9}\"|[0-9x_.-]{1,9}|\\[.{0,5}\\])|\n|\r|\t|\u{feff}|🦀){0,30}") {
        if let Err(error) = Config::parse("creto.toml", &text, []) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
