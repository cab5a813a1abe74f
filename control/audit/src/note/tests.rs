use super::*;

/// The example of the specification.
const EXAMPLE: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

#[test]
fn the_specifications_example_is_read() {
    let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
    assert!(note.text.ends_with("sera.\n") && note.text.starts_with("Ognuno"));
    let [signature] = note.signatures.as_slice() else { panic!("one signature") };
    assert_eq!(signature.name, "quasimodo.example/salvatore");
    assert_eq!((signature.key_id, signature.signature.len()), (0x367b_a04b, 64));
    let mut again = format!("{}\n", note.text);
    push_signature(&mut again, signature.name, signature.key_id, &signature.signature);
    assert_eq!(again, EXAMPLE);
}

#[test]
fn what_is_not_a_note_is_refused() {
    let line = "— a AAAAAAA=\n";
    assert!(Note::parse(format!("text\n\n{line}").as_bytes()).is_ok());
    for (wrong, error) in [
        (String::new(), NoteError::Form),
        (line.to_owned(), NoteError::Form),
        ("text\n".to_owned(), NoteError::Form),
        ("text\n\n".to_owned(), NoteError::Form),
        (format!("text\n\n{}", line.trim_end()), NoteError::Form),
        (format!("text\n\n{line}\n"), NoteError::Form),
        ("text\n\n- a AAAAAAA=\n".to_owned(), NoteError::Form),
        ("text\n\n— a+b AAAAAAA=\n".to_owned(), NoteError::Form),
        ("text\n\n— a AAAAAA==\n".to_owned(), NoteError::Form),
        (format!("te\x1bxt\n\n{line}"), NoteError::Text),
        (format!("te\rxt\n\n{line}"), NoteError::Text),
        (format!("text\n\n{}", line.repeat(17)), NoteError::TooLarge),
    ] {
        assert_eq!(Note::parse(wrong.as_bytes()), Err(error), "{wrong:?}");
    }
    assert_eq!(Note::parse(&[0xff]), Err(NoteError::Text));
    assert_eq!(Note::parse(&vec![b'a'; NOTE_BYTES_MAX + 1]), Err(NoteError::TooLarge));
}
