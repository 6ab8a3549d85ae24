//! Quorum arithmetic (H16, I08).

/// How many replicas each decision needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    pub replicas: u8,
    /// Durable copies that make an entry committed.
    pub replication: u8,
    /// Votes that make a view.
    pub view_change: u8,
    /// Replicas that never had an entry, which prove that it was not committed.
    pub nack: u8,
}

impl Quorums {
    /// Majorities. `None` for a group that can't be: 0 replicas, or more than 7.
    #[must_use]
    pub fn majority(replicas: u8) -> Option<Self> {
        let majority = replicas / 2 + 1;
        Self::flexible(replicas, majority, majority)
    }

    /// The smallest safe view-change quorum for a replication quorum, and with it the rest. Fewer copies make commits
    /// faster and ask for more votes: of six replicas three copies and four votes.
    #[must_use]
    pub fn of(replicas: u8, replication: u8) -> Option<Self> {
        let votes = replicas.checked_sub(replication)? + 1;
        Self::flexible(replicas, replication, votes.max(replicas / 2 + 1))
    }

    /// Replicas that may be gone while the others both elect and commit.
    #[must_use]
    pub fn tolerated(&self) -> u8 {
        self.replicas - self.replication.max(self.view_change)
    }

    /// Quorums as configured, or `None` when they are not safe: a replication and a view-change quorum must
    /// intersect, and so must two view-change quorums.
    #[must_use]
    pub fn flexible(replicas: u8, replication: u8, view_change: u8) -> Option<Self> {
        let bounded = (1..=7).contains(&replicas)
            && (1..=replicas).contains(&replication)
            && (1..=replicas).contains(&view_change);
        let safe = || replication + view_change > replicas && 2 * view_change > replicas;
        (bounded && safe()).then(|| Self {
            replicas,
            replication,
            view_change,
            nack: replicas - replication + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h16_only_safe_quorums_are_made() {
        let numbers = || (0..=9_u8).chain([127, 128, 255]);
        for n in numbers() {
            for r in numbers() {
                for v in numbers() {
                    let safe = (1..=7).contains(&n)
                        && (1..=n).contains(&r)
                        && (1..=n).contains(&v)
                        && r + v > n
                        && v + v > n;
                    let quorums = Quorums::flexible(n, r, v);
                    assert_eq!(quorums.is_some(), safe, "{n} {r} {v}");
                    // Fewer than a nack quorum may lack a committed entry.
                    assert!(quorums.is_none_or(|quorums| quorums.nack + r > n));
                }
            }
        }
    }

    #[test]
    fn h16_a_replication_quorum_has_the_smallest_view_change_quorum_that_is_safe_with_it() {
        for (replicas, replication, votes) in
            [(4, 2, 3), (4, 3, 3), (6, 3, 4), (6, 4, 4), (5, 2, 4), (7, 3, 5)]
        {
            assert_eq!(Quorums::of(replicas, replication).map(|quorums| quorums.view_change), Some(votes));
            assert_eq!(Quorums::flexible(replicas, replication, votes - 1), None, "one less is not safe");
        }
        for (replicas, replication) in [(0, 0), (3, 0), (3, 4), (8, 5)] {
            assert_eq!(Quorums::of(replicas, replication), None, "{replicas} {replication}");
        }
    }

    #[test]
    fn majorities_tolerate_what_they_should() {
        for (replicas, tolerated) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3)] {
            let quorums = Quorums::majority(replicas).unwrap();
            assert_eq!(quorums.tolerated(), tolerated);
        }
    }
}
