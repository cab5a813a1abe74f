//! CPUs that a run is pinned to: the generator, and the node that is started for it.

use std::fmt;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::exit::{Exit, Failure, plain};

/// CPUs, such as `0,2-5`, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuList(Vec<u16>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cpus = creto_node::config::cpu_list_from_text(text);
        let mut cpus = cpus.ok_or_else(|| format!("`{text}` is no list of CPUs; write 0,2-5"))?;
        cpus.sort_unstable();
        if let Some(twice) = cpus.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("CPU {} is named twice in `{text}`", twice[0]));
        }
        match cpus.last() {
            Some(last) if usize::from(*last) >= CpuSet::MAX_CPU => {
                Err(format!("there is no CPU {last}: the last one that can be named is {}", CpuSet::MAX_CPU - 1))
            }
            _ => Ok(Self(cpus)),
        }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&creto_node::config::cpu_list_text(&self.0))
    }
}

impl CpuList {
    /// The CPUs of one of several processes; all of them where there are fewer than processes.
    pub(crate) fn share(&self, share: creto_loadgen::Share) -> Self {
        match self.0.len() >= share.count as usize {
            true => Self(self.0[share.of(self.0.len())].to_vec()),
            false => self.clone(),
        }
    }

    /// Pins this thread, and whatever it starts from now on; gives what it was pinned to before.
    pub(crate) fn pin(&self) -> Result<CpuSet, Failure> {
        let cannot = |error: rustix::io::Errno| {
            let what = format!("nothing can be pinned to the CPUs {self}: {}", plain(&error.into()));
            Failure::new(Exit::Usage, what, "`nproc` and `taskset -cp $$` show which CPUs this process may use")
        };
        let before = sched_getaffinity(None).map_err(cannot)?;
        // The system would leave out what is not there, and pin to the rest.
        if let Some(cpu) = self.0.iter().find(|cpu| !before.is_set(usize::from(**cpu))) {
            let what = format!("this process may not use CPU {cpu}");
            let hint = "`nproc` and `taskset -cp $$` show which CPUs it may use";
            return Err(Failure::new(Exit::Usage, what, hint));
        }
        let mut set = CpuSet::new();
        self.0.iter().for_each(|cpu| set.set(usize::from(*cpu)));
        sched_setaffinity(None, &set).map_err(cannot)?;
        Ok(before)
    }
}

/// The CPUs that this thread may use.
pub(crate) fn allowed() -> Result<CpuSet, Failure> {
    sched_getaffinity(None).map_err(|error| {
        Failure::new(Exit::System, format!("the CPUs of this process are not to be had: {}", plain(&error.into())), "")
    })
}

/// Starts something that is to run on these CPUs: what a thread starts may use those that it may use itself.
pub(crate) fn starting_on<T>(cpus: &CpuSet, start: impl FnOnce() -> T) -> std::io::Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, cpus)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    Ok(started)
}

/// A set of these CPUs, of those that `allowed` has.
pub(crate) fn set_of(list: &CpuList, allowed: &CpuSet) -> Result<CpuSet, Failure> {
    if let Some(cpu) = list.0.iter().find(|cpu| !allowed.is_set(usize::from(**cpu))) {
        let what = format!("the node may not use CPU {cpu}: this process may not");
        return Err(Failure::new(Exit::Usage, what, "`nproc` and `taskset -cp $$` show which CPUs it may use"));
    }
    let mut set = CpuSet::new();
    list.0.iter().for_each(|cpu| set.set(usize::from(*cpu)));
    Ok(set)
}

#[cfg(test)]
mod tests {
    use creto_loadgen::Share;

    use super::*;

    #[test]
    fn a_list_of_cpus_is_read_and_written_as_ranges() {
        for (text, written) in [("0", "0"), ("4,0-2", "0-2,4"), ("7,5", "5,7")] {
            assert_eq!(text.parse::<CpuList>().map(|list| list.to_string()), Ok(written.to_owned()));
        }
        for wrong in ["", "a", "3-1", "1,1", "0-2,2", "1024", "-1", "1-"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn processes_have_cpus_of_their_own_where_there_are_enough() {
        let list: CpuList = "2-7".parse().expect("a list");
        let of = |index, count| list.share(Share { index, count }).to_string();
        assert_eq!([of(0, 2), of(1, 2), of(3, 4)], ["2-4", "5-7", "6-7"]);
        assert_eq!(of(5, 9), "2-7");
    }

    #[test]
    fn what_is_pinned_is_on_those_cpus_only_and_so_is_what_it_starts() {
        // A thread of its own: others of this process stay where they are.
        let thread = std::thread::spawn(|| {
            let before = allowed().expect("a set");
            let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).expect("a CPU");
            let list: CpuList = first.to_string().parse().expect("a list");
            assert!(list.pin().is_ok_and(|was| was == before));
            let inherited = std::thread::spawn(|| allowed().expect("a set")).join().expect("it does not panic");
            assert_eq!((inherited.count(), inherited.is_set(first)), (1, true));
            let elsewhere = starting_on(&before, || allowed().expect("a set")).expect("it may");
            assert_eq!((elsewhere, allowed().expect("a set").count()), (before, 1), "and back again");
        });
        thread.join().expect("it does not panic");
    }

    #[test]
    fn a_cpu_that_this_process_may_not_use_is_an_error_and_not_left_out() {
        let allowed = allowed().expect("a set");
        let missing =
            (0..CpuSet::MAX_CPU).rev().find(|cpu| !allowed.is_set(*cpu)).expect("no machine here has so many");
        let list: CpuList = missing.to_string().parse().expect("a list");
        assert!(list.pin().is_err() && set_of(&list, &allowed).is_err());
    }
}
