//! Votes on pairs of videos whose policies are not shown: the page that takes them, and what they say together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Row;
use crate::hub::hex;

/// Which of two videos is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Choice {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither: no difference is seen.
    Equal,
}

/// A vote on one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The number of the pair in its comparison.
    pub pair: usize,
    /// The policy of the first video.
    pub first: String,
    /// The policy of the second video.
    pub second: String,
    /// The better one.
    pub choice: Choice,
}

/// What one person exports from the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The comparison that it is of.
    pub comparison: String,
    /// A random name for the person and the browser.
    pub voter: String,
    /// In the order they were given; at most one on each pair.
    pub votes: Vec<Vote>,
}

/// Why ballots cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BallotError {
    /// A file is no ballot.
    #[error("{file} is no ballot of a blind comparison: {reason}; `export votes` on its page writes one")]
    Format {
        /// The file.
        file: String,
        /// The problem.
        reason: String,
    },
    /// Two ballots say that one pair shows different policies.
    #[error("{first} and {second} disagree about which policies pair {pair} shows: one of them was changed")]
    Disagree {
        /// A file.
        first: String,
        /// Another.
        second: String,
        /// The pair.
        pair: usize,
    },
    /// Two ballots are of different comparisons.
    #[error("{first} and {second} are ballots of different comparisons: count each comparison by itself")]
    Mixed {
        /// A file of the first comparison.
        first: String,
        /// A file of another.
        second: String,
    },
}

impl Ballot {
    /// Reads a ballot; `file` names it in errors.
    ///
    /// # Errors
    /// Text that is no ballot, or two votes on one pair.
    pub fn read(text: &str, file: &str) -> Result<Ballot, BallotError> {
        let bad = |reason: String| BallotError::Format { file: file.into(), reason };
        let ballot: Ballot =
            serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| bad(e.to_string()))?;
        let names = ballot.votes.iter().flat_map(|vote| [&vote.first, &vote.second]);
        // They are printed.
        if let Some(name) = names.chain([&ballot.voter]).find(|name| name.chars().any(char::is_control)) {
            return Err(bad(format!("the name {name:?} has control characters")));
        }
        let mut pairs: Vec<usize> = ballot.votes.iter().map(|vote| vote.pair).collect();
        pairs.sort_unstable();
        if let Some(twice) = pairs.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!("it has two votes on pair {}", twice[0])));
        }
        if let Some(vote) = ballot.votes.iter().find(|vote| vote.first == vote.second) {
            return Err(bad(format!("pair {} is of one policy, `{}`", vote.pair, vote.first)));
        }
        Ok(ballot)
    }
}

/// How often one policy is preferred to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Preference {
    /// The one policy.
    pub first: String,
    /// The other.
    pub second: String,
    /// Votes for the one.
    pub for_first: usize,
    /// Votes for the other.
    pub for_second: usize,
    /// Votes that see no difference.
    pub equal: usize,
    /// The share of `for_first` in the votes for one of them, with its 95 % interval (Wilson's); none without such a vote.
    pub share: Option<Share>,
}

/// A share and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Share {
    /// Between 0 and 1.
    pub share: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Share {
    /// `successes` of `trials`, with Wilson's interval; none of no trials.
    pub fn of(successes: usize, trials: usize) -> Option<Share> {
        if trials == 0 {
            return None;
        }
        const Z: f64 = 1.959_964;
        let (n, share) = (trials as f64, successes as f64 / trials as f64);
        let denominator = 1.0 + Z * Z / n;
        let centre = (share + Z * Z / (2.0 * n)) / denominator;
        let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / denominator;
        Some(Share { share, low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
    }
}

/// All ballots together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// The comparison.
    pub comparison: String,
    /// How many people voted.
    pub voters: usize,
    /// Every two policies that were compared, by name.
    pub preferences: Vec<Preference>,
    /// Ballots that are not counted, since a fuller one of the same person is.
    pub superseded: Vec<String>,
}

/// Counts ballots, each with the name of its file. Of several by one person the one with the most votes counts, the last among equals.
///
/// # Errors
/// Ballots of different comparisons.
pub fn tally(ballots: &[(String, Ballot)]) -> Result<Tally, BallotError> {
    let comparison = ballots.first().map(|(_, ballot)| ballot.comparison.clone()).unwrap_or_default();
    let mut voters: BTreeMap<&str, &(String, Ballot)> = BTreeMap::new();
    let mut superseded = vec![];
    for entry in ballots {
        let (file, ballot) = entry;
        if ballot.comparison != comparison {
            return Err(BallotError::Mixed { first: ballots[0].0.clone(), second: file.clone() });
        }
        match voters.get(ballot.voter.as_str()) {
            Some((_, kept)) if kept.votes.len() > ballot.votes.len() => superseded.push(file.clone()),
            _ => superseded.extend(voters.insert(&ballot.voter, entry).map(|(file, _)| file.clone())),
        }
    }
    // A pair is the same everywhere.
    let mut pairs: BTreeMap<usize, (&str, [&str; 2])> = BTreeMap::new();
    for (file, ballot) in ballots {
        for Vote { pair, first, second, .. } in &ballot.votes {
            let names = if first < second { [first.as_str(), second] } else { [second.as_str(), first] };
            let (known, policies) = *pairs.entry(*pair).or_insert((file, names));
            if policies != names {
                return Err(BallotError::Disagree { first: known.into(), second: file.clone(), pair: *pair });
            }
        }
    }
    // By the two names in order.
    let mut counts: BTreeMap<[&str; 2], [usize; 3]> = BTreeMap::new();
    for vote in voters.values().flat_map(|(_, ballot)| &ballot.votes) {
        let turned = vote.first > vote.second;
        let names: [&str; 2] = if turned { [&vote.second, &vote.first] } else { [&vote.first, &vote.second] };
        let place = match vote.choice {
            Choice::Equal => 2,
            Choice::First => usize::from(turned),
            Choice::Second => usize::from(!turned),
        };
        counts.entry(names).or_default()[place] += 1;
    }
    let preference = |([first, second], [for_first, for_second, equal]): ([&str; 2], [usize; 3])| Preference {
        first: first.into(),
        second: second.into(),
        for_first,
        for_second,
        equal,
        share: Share::of(for_first, for_first + for_second),
    };
    let (preferences, voters) = (counts.into_iter().map(preference).collect(), voters.len());
    Ok(Tally { comparison, voters, preferences, superseded })
}

/// What [`blind_page`] shows: of every prompt and seed, every two policies; and how many pairs are left out because their videos are equal.
///
/// * `results`: the content of `results.json`; `strips`: for each of `rows`, the video's frames in one column as a base64 PNG.
pub fn blind(results: &Value, rows: &[Row], strips: &[String]) -> (Value, usize) {
    let (mut pairs, mut equal) = (vec![], 0);
    for (second, b) in rows.iter().enumerate() {
        let same = |a: &Row| a.prompt == b.prompt && a.seed == b.seed && a.cache != b.cache;
        for first in (0..second).filter(|&first| same(&rows[first])) {
            if strips[first] == strips[second] {
                equal += 1;
            } else {
                pairs.push([first, second]);
            }
        }
    }
    let clip = |(row, strip): (&Row, &String)| json!({ "prompt": row.prompt, "cache": row.cache, "strip": strip });
    let clips: Vec<Value> = rows.iter().zip(strips).map(clip).collect();
    // Votes belong to these videos and to no others.
    let comparison = hex(Sha256::new_with_prefix(json!([results["model"], clips, pairs]).to_string()));
    (json!({ "comparison": comparison[..32], "video": results["video"], "clips": clips, "pairs": pairs }), equal)
}

/// The self-contained page that takes votes on pairs of [`blind`]'s content.
pub fn blind_page(content: &Value) -> String {
    crate::json::in_page(include_str!("blind.html"), "/*CONTENT*/", content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(voter: &str, votes: &[(&str, &str, Choice)]) -> (String, Ballot) {
        let vote = |(pair, (first, second, choice)): (usize, &(&str, &str, Choice))| Vote {
            pair,
            first: (*first).into(),
            second: (*second).into(),
            choice: *choice,
        };
        let votes = votes.iter().enumerate().map(vote).collect();
        (format!("{voter}.json"), Ballot { comparison: "c".into(), voter: voter.into(), votes })
    }

    #[test]
    fn votes_count_whichever_side_a_video_is_on() {
        use Choice::{Equal, First, Second};
        let ballots = [
            ballot("a", &[("none", "fast", First), ("fast", "none", First), ("slow", "none", Equal)]),
            ballot("b", &[("none", "fast", First), ("fast", "none", Second)]),
        ];
        let Tally { voters, preferences, .. } = tally(&ballots).unwrap();
        assert_eq!(voters, 2);
        let [fast, slow] = &preferences[..] else { panic!("{preferences:?}") };
        assert_eq!((fast.first.as_str(), fast.second.as_str()), ("fast", "none"));
        assert_eq!((fast.for_first, fast.for_second, fast.equal), (1, 3, 0));
        assert_eq!(fast.share.unwrap().share, 0.25);
        assert_eq!((slow.equal, slow.share), (1, None));
    }

    /// Wilson's interval of 7 in 10, from its published formula: 0.3968 to 0.8922.
    #[test]
    fn intervals_by_hand() {
        let Share { share, low, high } = Share::of(7, 10).unwrap();
        assert!((share - 0.7).abs() < 1e-12 && (low - 0.3968).abs() < 1e-4 && (high - 0.8922).abs() < 1e-4);
        let all = Share::of(5, 5).unwrap();
        assert!(all.high == 1.0 && (all.low - 0.5655).abs() < 1e-4, "{all:?}");
        assert_eq!(Share::of(0, 0), None);
    }

    #[test]
    fn a_person_counts_once() {
        let more = ballot("a", &[("x", "y", Choice::First), ("x", "z", Choice::First)]);
        let fewer = ("old.json".to_owned(), ballot("a", &[("x", "y", Choice::Second)]).1);
        for ballots in [[more.clone(), fewer.clone()], [fewer, more]] {
            let tally = tally(&ballots).unwrap();
            assert_eq!((tally.voters, tally.superseded), (1, vec!["old.json".to_owned()]));
            assert_eq!(tally.preferences[0].for_first, 1);
        }
    }

    #[test]
    fn what_is_no_ballot_is_refused() {
        let other = ("o.json".to_owned(), Ballot { comparison: "d".into(), ..ballot("b", &[]).1 });
        let error = tally(&[ballot("a", &[]), other]).unwrap_err().to_string();
        assert!(error.contains("a.json and o.json"), "{error}");
        // Of the same comparison, but not of the same pairs.
        let changed = ballot("b", &[("none", "bogus", Choice::First)]);
        let error = tally(&[ballot("a", &[("fast", "none", Choice::First)]), changed]).unwrap_err().to_string();
        assert!(error.contains("a.json and b.json disagree") && error.contains("pair 0"), "{error}");
        Ballot::read("\u{feff}{\"comparison\":\"c\",\"voter\":\"v\",\"votes\":[]}", "b.json").unwrap();
        for (text, part) in [
            ("{}", "comparison"),
            (
                r#"{"comparison":"c","voter":"v","votes":[{"pair":1,"first":"\u001b[31m","second":"x","choice":"equal"}]}"#,
                "control characters",
            ),
            (
                r#"{"comparison":"c","voter":"v","votes":[{"pair":1,"first":"x","second":"x","choice":"equal"}]}"#,
                "one policy",
            ),
            (r#"{"comparison":"c","voter":"v","votes":[{"pair":1,"first":"x","second":"y","choice":"left"}]}"#, "left"),
            (
                r#"{"comparison":"c","voter":"v","votes":[{"pair":1,"first":"x","second":"y","choice":"first"},
                {"pair":1,"first":"x","second":"y","choice":"equal"}]}"#,
                "two votes on pair 1",
            ),
        ] {
            let error = Ballot::read(text, "b.json").unwrap_err().to_string();
            assert!(error.contains(part) && error.starts_with("b.json is no ballot"), "{text}: {error}");
        }
    }

    #[test]
    fn pairs_are_of_one_prompt_and_seed_and_differ() {
        let row = |prompt: &str, seed, cache: &str| Row {
            prompt: prompt.into(),
            seed,
            ..crate::compare::tests::row(cache, 20.0)
        };
        let rows = [row("p", 0, "none"), row("p", 0, "a"), row("p", 0, "b"), row("p", 1, "none"), row("q", 0, "a")];
        let strips = ["x", "y", "x", "z", "z"].map(String::from);
        let (content, equal) = blind(&json!({ "model": "m", "video": 7 }), &rows, &strips);
        assert_eq!((content["pairs"].to_string(), equal), ("[[0,1],[1,2]]".into(), 1));
        assert_eq!((content["clips"][1]["cache"].as_str(), content["video"].as_i64()), (Some("a"), Some(7)));
        let other = blind(&json!({ "model": "m" }), &rows, &["x", "y", "x", "z", "y"].map(String::from)).0;
        assert_ne!(content["comparison"], other["comparison"]);
    }

    #[test]
    fn the_page_fetches_nothing_and_no_prompt_ends_its_script() {
        let html = blind_page(&serde_json::json!({ "prompt": "</script><b>" }));
        assert!(html.contains(r#"{"prompt":"\u003c/script>\u003cb>"}"#) && !html.contains("/*CONTENT*/"));
        assert!(!html.contains("src=\"http") && !html.contains("href=\"http") && !html.contains("@import"));
    }
}
