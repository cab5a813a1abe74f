//! A disk in memory that stops at any step, and forgets any part of what was not synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::Disk;

/// Numbers from a seed (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) => {
                let (begin, end) =
                    (usize::try_from(*offset).unwrap(), usize::try_from(*offset).unwrap() + written.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[begin..end].copy_from_slice(written);
            }
            Self::Cut(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        }
    }
}

#[derive(Clone, Default)]
struct Contents {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum NameChange {
    Make(String, usize),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn folder(&self) -> &str {
        match self {
            Self::Make(name, _) | Self::Rename(_, name) | Self::Remove(name) => folder_of(name),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Make(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

fn folder_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(folder, _)| folder)
}

#[derive(Default)]
struct State {
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    steps_left: Option<u64>,
    steps: u64,
}

/// Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk(Rc<RefCell<State>>);

impl FaultyDisk {
    /// After so many more steps nothing works any more. The step at which it ends may have reached the disk.
    pub(crate) fn stop_after(&self, steps: u64) {
        self.0.borrow_mut().steps_left = Some(steps);
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// The power went: of what was not synced any part is there. It works again.
    pub(crate) fn lose_power(&self, dice: &mut Dice) {
        let mut state = self.0.borrow_mut();
        state.steps_left = None;
        for file in &mut state.files {
            for change in std::mem::take(&mut file.unsynced) {
                match (dice.below(3), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, bytes)) => {
                        let kept = usize::try_from(dice.below(bytes.len() as u64 + 1)).unwrap();
                        Change::Write(offset, bytes[..kept].to_vec()).apply(&mut file.durable);
                    }
                    (_, change) => change.apply(&mut file.durable),
                }
            }
            file.current = file.durable.clone();
        }
        // A file system keeps the order in which names changed.
        let changes = std::mem::take(&mut state.unsynced_names);
        let kept = usize::try_from(dice.below(changes.len() as u64 + 1)).unwrap();
        let mut names = std::mem::take(&mut state.durable_names);
        changes[..kept].iter().for_each(|change| change.apply(&mut names));
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Changes a byte that is durable.
    pub(crate) fn flip(&self, name: &str, at: usize) {
        let mut state = self.0.borrow_mut();
        let file = state.names[name];
        let contents = &mut state.files[file];
        contents.durable[at] ^= 0x40;
        contents.current = contents.durable.clone();
    }

    /// Everything that is there, to see whether something changed.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.borrow();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].current.clone())).collect()
    }

    /// Whether this step may still be done; the error when not, and whether the step is the one that is torn.
    fn step(state: &mut State) -> (bool, io::Result<()>) {
        state.steps += 1;
        match &mut state.steps_left {
            None => (true, Ok(())),
            Some(0) => (false, Err(io::ErrorKind::StorageFull.into())),
            Some(left) => {
                *left -= 1;
                if *left == 0 { (true, Err(io::ErrorKind::Interrupted.into())) } else { (true, Ok(())) }
            }
        }
    }
}

impl State {
    fn file(&mut self, name: &str) -> &mut Contents {
        let file = match self.names.get(name) {
            Some(file) => *file,
            None => {
                let file = self.files.len();
                self.files.push(Contents::default());
                self.change_names(NameChange::Make(name.to_owned(), file));
                file
            }
        };
        &mut self.files[file]
    }

    fn change(&mut self, name: &str, change: Change) {
        let file = self.file(name);
        change.apply(&mut file.current);
        file.unsynced.push(change);
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl Disk for FaultyDisk {
    fn write_at(&mut self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (happens, result) = Self::step(&mut state);
        if happens {
            state.change(file, Change::Write(offset, bytes.to_vec()));
        }
        result
    }

    fn read_at(&self, file: &str, offset: u64, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let state = self.0.borrow();
        let Some(file) = state.names.get(file) else { return Ok(None) };
        let rest = state.files[*file].current.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(Some(count))
    }

    fn length(&self, file: &str) -> io::Result<Option<u64>> {
        let state = self.0.borrow();
        Ok(state.names.get(file).map(|file| state.files[*file].current.len() as u64))
    }

    fn cut(&mut self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (happens, result) = Self::step(&mut state);
        if happens {
            state.change(file, Change::Cut(length));
        }
        result
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (_, result) = Self::step(&mut state);
        result?;
        let file = state.file(file);
        file.durable = file.current.clone();
        file.unsynced.clear();
        Ok(())
    }

    fn sync_folder(&mut self, folder: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (_, result) = Self::step(&mut state);
        result?;
        let (done, left) = std::mem::take(&mut state.unsynced_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.folder() == folder);
        done.iter().for_each(|change| change.apply(&mut state.durable_names));
        state.unsynced_names = left;
        Ok(())
    }

    fn make_folder(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (happens, result) = Self::step(&mut state);
        if happens {
            state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        }
        result
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (happens, result) = Self::step(&mut state);
        if happens {
            state.change_names(NameChange::Remove(file.to_owned()));
        }
        result
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        let names = state.names.keys().filter(|name| !folder.is_empty() && folder_of(name) == folder);
        Ok(names.filter_map(|name| name.split_once('/')).map(|(_, name)| name.to_owned()).collect())
    }
}
