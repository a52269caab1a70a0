//! What may lie on disk of every key, from what the process said.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{body_of, is_forgettable, sum_of};

/// What may lie on disk of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    Vacant,
    Open { fence: u64, attempt: u32 },
    Done { fence: u64 },
}

/// What the oracle knows of a key.
#[derive(Debug)]
struct Known {
    may: Vec<Durable>,
    /// The claim that is out, until its holder says that it is about to end it.
    live: Option<u64>,
    /// The last claim that was granted.
    current: u64,
    /// Begins that were not answered yet.
    begins: u32,
    /// A begin was not answered before the process died: a claim may be on disk that nobody heard
    /// of.
    unheard: bool,
    /// Forgets that were not answered yet: by which thread, and the current claim when it asked.
    forgets: HashMap<u64, u64>,
    /// A forget was under way at some time since the current claim was granted.
    forgotten: bool,
}

impl Known {
    fn new() -> Self {
        Self {
            may: vec![Durable::Vacant],
            live: None,
            current: 0,
            begins: 0,
            unheard: false,
            forgets: HashMap::new(),
            forgotten: false,
        }
    }

    fn set(&mut self, may: &[Durable]) {
        self.may = may.to_vec();
        if self.forgotten && !may.contains(&Durable::Vacant) {
            self.may.push(Durable::Vacant);
        }
    }

    /// The state is durable now, unless a forget interferes or it is long past.
    fn settle(&mut self, fence: u64, state: Durable) {
        if self.current == fence && !self.forgotten {
            self.may = vec![state];
        }
    }

    /// Whether a claim that nobody heard of, granted on top of what may be there, explains this
    /// one.
    fn explains_unheard(&self, attempt: u32) -> bool {
        self.unheard
            && self.may.iter().any(|may| match may {
                Durable::Vacant => attempt == 1,
                Durable::Open { attempt: before, .. } => attempt == before + 1,
                Durable::Done { .. } => false,
            })
    }
}

/// What a completion was to store.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    key: u64,
    attempt: u32,
    outcome: String,
    sum: String,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) kills: u64,
    /// Lives that never came to the system call at which they were to be killed.
    pub(crate) outlived: u64,
    pub(crate) before_opened: u64,
    pub(crate) lines: u64,
    pub(crate) granted: u64,
    pub(crate) interrupted: u64,
    pub(crate) unheard: u64,
    pub(crate) done: u64,
    pub(crate) released: u64,
    pub(crate) forgotten: u64,
    pub(crate) replayed: u64,
    pub(crate) walked: u64,
    pub(crate) checkpoints: u64,
    /// Times that a log was seen to have grown.
    pub(crate) grown: u64,
}

#[derive(Default)]
pub(crate) struct Oracle {
    keys: BTreeMap<u64, Known>,
    /// Every completion that was ever tried, by fence.
    tried: HashMap<u64, Stored>,
    attempts: HashMap<u64, u32>,
    fences: BTreeSet<u64>,
    /// No fence of this life may be at or below this one.
    floor: u64,
    walked: BTreeMap<u64, Durable>,
    opened: bool,
    pub(crate) closed: bool,
    /// Of this life, when last heard of.
    checkpoints: u64,
    log_bytes: u64,
    pub(crate) totals: Totals,
}

pub(crate) type Verdict = Result<(), String>;

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Oracle {
    /// Of a new file; counts on from `totals`.
    pub(crate) fn new(totals: Totals) -> Self {
        Self { totals, ..Self::default() }
    }

    /// Takes in one line of the pipe; what is not ours is the test harness's.
    pub(crate) fn hear(&mut self, line: &str) -> Verdict {
        let Some(line) = line.strip_prefix('@') else { return Ok(()) };
        self.totals.lines += 1;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (key, second) = (number(1), number(2));
        let heard = match words[0] {
            "begin" => self.begin(key),
            "granted" => self.granted(key, second, number(3), (number(4), number(5))),
            "refused" => self.refused(key),
            "end" => self.end(key, second, words[3]),
            "done" => self.done(key, &words[2..]),
            "replay" => self.replay(key, &words[2..]),
            "drop" => self.ending(key, second, &[]),
            "release" => self.ending(key, second, &[Durable::Vacant]),
            "released" => self.released(key, second),
            "forget" => self.forget(key, second),
            "forgot" => self.forgot(key, second, words[3] == "true"),
            "walked" => self.walked(key, words[2], &words[3..]),
            "opened" => self.opened(),
            "stats" => self.stats(key, second),
            "closed" => {
                self.closed = true;
                ensure(key == 0, || "a clean close left claims".to_owned())
            }
            _ => Err("the worker complains".to_owned()),
        };
        heard.map_err(|what| format!("{what}; heard {line:?}, known {:?}", self.keys.get(&key)))
    }

    fn known(&mut self, key: u64) -> &mut Known {
        self.keys.entry(key).or_insert_with(Known::new)
    }

    fn begin(&mut self, key: u64) -> Verdict {
        self.known(key).begins += 1;
        Ok(())
    }

    fn refused(&mut self, key: u64) -> Verdict {
        self.known(key).begins -= 1;
        Ok(())
    }

    fn granted(&mut self, key: u64, fence: u64, attempt: u64, earlier: (u64, u64)) -> Verdict {
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        let floor = self.floor;
        ensure(fence > floor, || format!("fence {fence} is not above {floor}, of an earlier life"))?;
        ensure(self.fences.insert(fence), || format!("fence {fence} was granted twice"))?;
        self.attempts.insert(fence, attempt);
        let known = self.known(key);
        ensure(known.live.is_none(), || "two claims are out".to_owned())?;
        let before = match earlier {
            (0, _) => Durable::Vacant,
            (fence, attempt) => Durable::Open { fence, attempt: u32::try_from(attempt).unwrap_or(0) },
        };
        let follows = match before {
            Durable::Open { attempt: before, .. } => attempt == before + 1,
            Durable::Vacant | Durable::Done { .. } => attempt == 1,
        };
        ensure(follows && known.may.contains(&before), || format!("a grant on top of {before:?}"))?;
        known.begins -= 1;
        known.live = Some(fence);
        known.current = fence;
        known.forgotten = !known.forgets.is_empty();
        known.may = vec![Durable::Open { fence, attempt }];
        self.totals.granted += 1;
        self.totals.interrupted += u64::from(earlier.0 > 0);
        Ok(())
    }

    /// The holder is about to end its claim; beside what it was, its key may become one of
    /// `states`.
    fn ending(&mut self, key: u64, fence: u64, states: &[Durable]) -> Verdict {
        let attempt = self.attempts.get(&fence).copied().unwrap_or(0);
        let known = self.known(key);
        ensure(known.live == Some(fence), || "a claim that isn't out is ended".to_owned())?;
        known.live = None;
        known.set(&[&[Durable::Open { fence, attempt }], states].concat());
        Ok(())
    }

    fn end(&mut self, key: u64, fence: u64, outcome: &str) -> Verdict {
        let attempt = self.attempts.get(&fence).copied().unwrap_or(0);
        let sum = sum_of(&body_of(key, fence));
        self.tried.insert(fence, Stored { key, attempt, outcome: outcome.to_owned(), sum });
        self.ending(key, fence, &[Durable::Done { fence }])
    }

    /// Whether a record is, byte for byte, one that somebody tried to store under this key.
    fn check_record(&self, key: u64, told: &[&str]) -> Result<u64, String> {
        let [fence, attempt, outcome, sum] = told else { return Err("no record".to_owned()) };
        let (Ok(fence), Ok(attempt)) = (fence.parse(), attempt.parse()) else {
            return Err("no record".to_owned());
        };
        let found = Stored { key, attempt, outcome: (*outcome).to_owned(), sum: (*sum).to_owned() };
        let tried = self.tried.get(&fence);
        ensure(tried == Some(&found), || format!("a record {found:?} where {tried:?} was stored"))?;
        Ok(fence)
    }

    fn done(&mut self, key: u64, told: &[&str]) -> Verdict {
        let fence = self.check_record(key, told)?;
        self.totals.done += 1;
        self.known(key).settle(fence, Durable::Done { fence });
        Ok(())
    }

    /// A caller that sees a record could crash and see it again, so this is as good as an
    /// acknowledgement.
    fn replay(&mut self, key: u64, told: &[&str]) -> Verdict {
        let fence = self.check_record(key, told)?;
        self.totals.replayed += 1;
        let known = self.known(key);
        known.begins -= 1;
        // A forgotten record may have been seen before, and be told of after.
        let is_late = is_forgettable(key) && (known.current != fence || known.may == [Durable::Vacant]);
        ensure(is_late || known.may.contains(&Durable::Done { fence }), || {
            "a record is replayed that can't be there".to_owned()
        })?;
        known.settle(fence, Durable::Done { fence });
        Ok(())
    }

    fn released(&mut self, key: u64, fence: u64) -> Verdict {
        self.totals.released += 1;
        self.known(key).settle(fence, Durable::Vacant);
        Ok(())
    }

    fn forget(&mut self, key: u64, thread: u64) -> Verdict {
        let known = self.known(key);
        known.forgets.insert(thread, known.current);
        known.forgotten = true;
        if known.live.is_none() {
            let may = known.may.clone();
            known.set(&may);
        }
        Ok(())
    }

    fn forgot(&mut self, key: u64, thread: u64, gone: bool) -> Verdict {
        let known = self.known(key);
        let asked_at = known.forgets.remove(&thread);
        // Not where a claim was granted since: then nobody knows which came first.
        if gone && asked_at == Some(known.current) && known.live.is_none() {
            known.may = vec![Durable::Vacant];
        }
        self.totals.forgotten += u64::from(gone);
        Ok(())
    }

    fn stats(&mut self, checkpoints: u64, log_bytes: u64) -> Verdict {
        ensure(checkpoints >= self.checkpoints, || "checkpoints were undone".to_owned())?;
        self.totals.checkpoints += checkpoints - self.checkpoints;
        self.checkpoints = checkpoints;
        self.totals.grown += u64::from(self.log_bytes > 0 && log_bytes > self.log_bytes);
        self.log_bytes = log_bytes;
        Ok(())
    }

    fn walked(&mut self, key: u64, state: &str, told: &[&str]) -> Verdict {
        let found = match state {
            "done" => Durable::Done { fence: self.check_record(key, told)? },
            _ => Durable::Open { fence: told[0].parse().unwrap_or(0), attempt: told[1].parse().unwrap_or(0) },
        };
        self.totals.walked += 1;
        ensure(self.keys.contains_key(&key), || "a key that nobody ever began".to_owned())?;
        let twice = self.walked.insert(key, found).is_some();
        ensure(!twice, || "a key twice in one walk".to_owned())
    }

    /// The walk is over: what it found, and what it didn't, is what there is.
    fn opened(&mut self) -> Verdict {
        self.opened = true;
        let walked = std::mem::take(&mut self.walked);
        for (key, known) in &mut self.keys {
            let found = walked.get(key).copied().unwrap_or(Durable::Vacant);
            if !known.may.contains(&found) {
                let Durable::Open { fence, attempt } = found else {
                    return Err(format!("key {key} is {found:?}, but {known:?}"));
                };
                let is_new = fence > self.floor && self.fences.insert(fence);
                ensure(is_new && known.explains_unheard(attempt), || {
                    format!("key {key} is {found:?}, but {known:?}")
                })?;
                self.attempts.insert(fence, attempt);
                self.totals.unheard += 1;
            }
            if let Durable::Open { fence, .. } | Durable::Done { fence } = found {
                known.current = fence;
            }
            known.may = vec![found];
            known.unheard = false;
        }
        self.floor = self.fences.last().copied().unwrap_or(0);
        Ok(())
    }

    /// The process is gone, and with it every claim that was out.
    pub(crate) fn bury(&mut self) {
        for known in self.keys.values_mut() {
            known.unheard |= known.begins > 0;
            known.begins = 0;
            known.live = None;
            known.forgets.clear();
            known.forgotten = false;
        }
        self.walked.clear();
        self.checkpoints = 0;
        self.log_bytes = 0;
        self.totals.before_opened += u64::from(!self.opened);
        self.opened = false;
    }
}
