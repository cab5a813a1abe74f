use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn example(state: &str) -> TraceContext {
    TraceContext::from_headers(PARENT, state).unwrap()
}

fn head(context: &TraceContext, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    context.write(&mut payload);
    payload.extend_from_slice(body);
    payload
}

#[test]
fn a_head_has_these_bytes_and_is_read_as_it_was_written() {
    let payload = head(&example("a=1,b=2"), b"body");
    let expected = [
        &b"\xffTC\x01\x27\x00\x01\x00"[..],
        &[0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c],
        &[0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31],
        b"a=1,b=2body",
    ]
    .concat();
    assert_eq!(payload, expected);
    let parsed = TraceHead::parse(&payload).unwrap();
    assert_eq!((&payload[parsed.bytes..], parsed.context), (&b"body"[..], Ok(example("a=1,b=2"))));
    let parsed = TraceHead::parse(&head(&example(""), b"")).unwrap();
    assert_eq!((parsed.bytes, parsed.context.unwrap().traceparent()), (TRACE_HEADER_BYTES, PARENT.to_owned()));
}

#[test]
fn what_does_not_begin_with_a_whole_head_is_the_applications() {
    let whole = head(&example("a=1"), b"body");
    for end in 0..35 {
        assert_eq!(TraceHead::parse(&whole[..end]), None, "{end} bytes");
    }
    for other in
        [&b"\xffTH\x01........"[..], b"hello", b"", b"\xffTC\x01\x07\x00\x00\x00", b"\xffTC\x01\xff\xff\x00\x00"]
    {
        assert_eq!(TraceHead::parse(other), None);
    }
    let mut long = whole.clone();
    long.resize(4_096, 0);
    long[4..6].copy_from_slice(&1_025u16.to_le_bytes());
    assert_eq!(TraceHead::parse(&long), None, "no head is that long");
}

#[test]
fn a_context_that_breaks_a_rule_is_left_out_and_the_body_stays() {
    let whole = head(&example("a=1"), b"body");
    let broken = |place: usize, bytes: &[u8]| {
        let mut payload = whole.clone();
        payload[place..place + bytes.len()].copy_from_slice(bytes);
        let parsed = TraceHead::parse(&payload).unwrap();
        assert_eq!((&payload[parsed.bytes..], parsed.context), (&b"body"[..], Err(Malformed)), "{bytes:?} at {place}");
    };
    broken(3, &[2]);
    broken(7, &[1]);
    broken(8, &[0; 16]);
    broken(24, &[0; 8]);
    broken(32, &[0x07]);
    broken(32, &[0xc3]);
    // Of a later version only the length is known.
    let later = b"\xffTC\x09\x08\x00\x55\x66body";
    assert_eq!(TraceHead::parse(later), Some(TraceHead { context: Err(Malformed), bytes: 8 }));
    let short = b"\xffTC\x01\x09\x00\x01\x00.body";
    assert_eq!(TraceHead::parse(short), Some(TraceHead { context: Err(Malformed), bytes: 9 }));
}

#[test]
fn traceparent_is_read_by_the_rules_of_the_recommendation() {
    assert_eq!(example("").traceparent(), PARENT);
    let later = format!("cc-{}-what-the-future-brings", &PARENT[3..]);
    assert_eq!(TraceContext::from_headers(&later, ""), Ok(example("")), "a later version begins as this one");
    for wrong in [
        "",
        "00",
        &PARENT[..54],
        &format!("{PARENT}-more"),
        &PARENT.to_uppercase(),
        &format!("ff{}", &PARENT[2..]),
        &format!("cc{}x", &PARENT[2..]),
        &PARENT.replace('-', "_"),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{fc}",
    ] {
        assert_eq!(TraceContext::from_headers(wrong, ""), Err(Malformed), "{wrong}");
    }
    assert_eq!(TraceContext::from_headers(PARENT, "a=\n"), Err(Malformed));
}

#[test]
fn a_long_tracestate_loses_its_last_members_whole() {
    let member = |number: usize| format!("vendor{number:02}={}", "x".repeat(91));
    let all: Vec<String> = (0..8).map(member).collect();
    let kept = example(&all.join(","));
    assert_eq!(kept.tracestate(), all[..5].join(","), "five of a hundred and one bytes each");
    let exact = format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX - 2));
    assert_eq!(example(&exact).tracestate(), exact);
    assert_eq!(example(&format!("{exact}x")).tracestate(), "", "one member alone that is too long");
}
