//! What is ours, run on secrets: `scripts/constant-time.sh` runs this under valgrind's memcheck, which believes that the
//! secrets are undefined. A branch or a memory access that depends on one is then an error that it reports (the method of
//! ctgrind). Alone, this program shows nothing but that it runs.
//!
//! With `--leak-branch` and `--leak-table` it does on purpose what must be found: a check that finds nothing must be able to
//! find something. And whatever is sealed is looked at before it is published: it must count as secret until then.
//!
//! | ours, and run here on secrets | |
//! |---|---|
//! | a session's step, at both ends | chain keys, message keys, kept keys |
//! | the stored form of both ends | chain keys and kept keys; not reading it back: its checksum decides, on purpose |
//! | sealing under a message key | message keys, shared secrets; not opening: whether a tag holds decides, on purpose |
//!
//! Nothing else of ours touches secret bytes. Tags are compared by aws-lc (CRYPTO_memcmp) and by aes-gcm (subtle). What
//! `crypto-accel/src` compares itself is public: ids, roots, paths, public keys, and the checksum of a stored session.

#[cfg(target_arch = "x86_64")]
fn main() {
    checks::run(std::env::args().nth(1).as_deref());
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("skipped: the requests to valgrind are written for x86-64");
}

#[cfg(target_arch = "x86_64")]
mod checks {
    use std::hint::black_box;

    use creto_crypto_accel::Backend;
    use creto_crypto_accel::seal::{RecipientKey, RecipientSecret, message_key};
    use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};

    /// memcheck's requests (valgrind/memcheck.h): its tool base is "MC".
    const MAKE_UNDEFINED: usize = 0x4d43_0001;
    const MAKE_DEFINED: usize = 0x4d43_0002;
    const GET_VBITS: usize = 0x4d43_0008;
    const RUNNING_ON_VALGRIND: usize = 0x1001;
    /// Of the stored form of a chain.
    const CHAIN_KEY: std::ops::Range<usize> = 32..64;

    pub(super) fn run(leak: Option<&str>) {
        if !on_valgrind() {
            println!("not under valgrind: nothing is checked");
        }
        let (secret, public) = (black_box([5_u8; 32]), black_box([6_u8; 32]));
        hide(&secret);
        match leak {
            Some("--leak-branch") => println!("in common: {}", leak_branch(&secret, &public)),
            Some("--leak-table") => println!("looked up: {}", leak_table(&secret, &(0..=255).collect::<Vec<u8>>())),
            _ => {
                Backend::ALL.into_iter().for_each(check);
                println!("every operation ran on secrets, with both backends");
            }
        }
    }

    fn on_valgrind() -> bool {
        request([RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0]) != 0
    }

    /// Asks valgrind for something. On the bare processor these instructions do nothing, and the answer is zero.
    fn request(arguments: [usize; 6]) -> usize {
        let mut answer = 0_usize;
        // JUSTIFICATION: this is how a program speaks to valgrind; there is no other way.
        // SAFETY: four rotations by 128 bits together and an exchange of a register with itself change nothing but flags.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
                in("rax") arguments.as_ptr(), inout("rdx") answer,
                options(nostack),
            );
        }
        answer
    }

    /// From here on a secret.
    fn hide(bytes: &[u8]) {
        request([MAKE_UNDEFINED, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]);
    }

    /// From here on public: it goes over the wire, or to a disk.
    fn publish(bytes: &[u8]) {
        request([MAKE_DEFINED, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]);
    }

    /// Whether every one of these bytes depends on a secret.
    fn all_secret<const N: usize>(bytes: &[u8; N]) -> bool {
        let bits = [0_u8; N];
        request([GET_VBITS, bytes.as_ptr() as usize, bits.as_ptr() as usize, N, 0, 0]);
        black_box(&bits).iter().all(|&bits| bits == 0xff)
    }

    /// Hides `secret` where it lies inside of `whole`.
    fn hide_inside<T>(whole: &T, secret: &[u8]) {
        // JUSTIFICATION: the key is private to its type, and the check must not have a way in that others could use.
        // SAFETY: `whole` is borrowed; it has no padding before its key that would be compared to be equal.
        let memory = unsafe { std::slice::from_raw_parts((&raw const *whole).cast::<u8>(), size_of::<T>()) };
        let at = memory.windows(secret.len()).position(|window| window == secret).expect("the key lies in the value");
        hide(&memory[at..at + secret.len()]);
    }

    fn check(backend: Backend) {
        let secret = RecipientSecret::with_backend(backend, &[7; 32]);
        let key = RecipientKey::with_backend(backend, secret.public()).expect("an honest key");
        let peers = Peers { sender: [1; 16], recipient: [2; 16], key_id: key.key_id() };
        let (mut send, wrapped_key) = SendChain::open(&key, &peers);
        let receive = ReceiveChain::accept(&secret, &peers, &send.session_id(), &wrapped_key);
        let mut receive = receive.expect("the session was opened for this recipient");
        let seal = |key: creto_crypto_accel::seal::MessageKey| {
            let mut payload = [9; 1_024];
            let tag = key.seal_in_place(&[0; 12], &[3; 160], &mut payload);
            assert_eq!(
                (all_secret(&tag), all_secret(&payload)),
                (on_valgrind(), on_valgrind()),
                "a key was not secret"
            );
            publish(&tag);
            publish(&payload);
        };

        hide_inside(&send, &send.to_bytes()[CHAIN_KEY]);
        for _ in 0..3 {
            seal(send.next().expect("a fresh session").1);
        }
        black_box(send.at(20).expect("ahead of it"));
        black_box(send.to_bytes());
        drop(send);

        hide_inside(&receive, &receive.to_bytes()[CHAIN_KEY]);
        // Three keys are kept on the way, one of them is erased, one is asked for again.
        black_box(receive.key(3).expect("a fresh session"));
        receive.settle(1);
        seal(receive.key(2).expect("it was kept"));
        black_box(receive.to_bytes());
        drop(receive);

        let (_, shared) = key.encapsulate();
        hide(shared.expose());
        seal(message_key(&shared, &[4; 160]));
        drop(shared);
    }

    /// A comparison that ends early.
    #[inline(never)]
    fn leak_branch(secret: &[u8; 32], public: &[u8; 32]) -> bool {
        secret.iter().zip(public).any(|(a, b)| a == b)
    }

    /// A table that a secret looks up.
    #[inline(never)]
    fn leak_table(secret: &[u8; 32], table: &[u8]) -> u8 {
        // All of the table's 256 places exist, so no bound is compared with the secret.
        let table: &[u8; 256] = table.try_into().expect("it has 256 places");
        let found = table[usize::from(secret[0])];
        publish(std::slice::from_ref(&found));
        found
    }
}
