//! An operator who changes the members while everything else goes wrong: adds standbys, promotes them, removes
//! replicas, loses disks and has them replaced.
//!
//! He asks the primary over the lines of some edge, as often as he likes, and sees all replicas at once; whether a change
//! can be made is the primary's business. What he takes care of himself is not to lose more disks than the shard can bear.

use std::collections::BTreeSet;

use tigerchat_core::pool::{Class, Pool};
use tigerchat_core::types::{Address, EdgeId, ReplicaId};
use tigerchat_core::vsr::membership::{Change, Members, Role};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::network::Place;
use crate::trouble::Trouble;
use crate::world::{CLUSTER, SHARD, World};

const OPERATOR: Address = Address::Edge(EdgeId(2));

impl World<'_> {
    pub(crate) fn operate(&mut self) {
        let Some(knobs) = self.drawn.members.clone() else { return };
        self.trouble_after(knobs.every, Trouble::Operate);
        let Some(primary) = self.primary() else { return };
        let Some(members) = self.newest_members().cloned() else { return };
        if self.random.chance(knobs.lost_disk) && self.may_lose_disk(&members) {
            self.lose_disk(primary, &members);
        }
        if let Some(change) = self.some_change(&members, usize::from(knobs.least_voters)) {
            self.ask_for(&change, &members, primary);
        }
    }

    /// The members with the highest number by whom anybody acts.
    pub(crate) fn newest_members(&self) -> Option<&Members> {
        let all = (0..self.replicas()).filter_map(|place| Some(self.replica(place)?.members()));
        all.filter(|members| !members.is_unknown()).max_by_key(|members| members.number)
    }

    /// Healed replicas that are members: what is to converge.
    pub(crate) fn core_members(&self) -> BTreeSet<Place> {
        let Some(members) = self.newest_members() else { return self.core.clone() };
        let ids: BTreeSet<Place> = members.ids().map(|id| usize::from(id.0)).collect();
        self.core.intersection(&ids).copied().collect()
    }

    /// All voters are up and act by the same members, none is lost, and no change is under way.
    fn may_lose_disk(&self, members: &Members) -> bool {
        let settled = |id: ReplicaId| {
            self.replica(usize::from(id.0))
                .is_some_and(|replica| replica.members().number == members.number && !replica.is_changing())
        };
        members.quorums().tolerated() > 0
            && members.voters().all(settled)
            && self.lost.iter().all(|place| members.get(id_of(*place)).is_none())
    }

    fn lose_disk(&mut self, primary: Place, members: &Members) {
        let others: Vec<Place> =
            members.voters().map(|id| usize::from(id.0)).filter(|place| *place != primary).collect();
        let place = *self.random.pick(&others);
        self.crash(place, true);
        self.lost.insert(place);
    }

    fn some_change(&mut self, members: &Members, least_voters: usize) -> Option<Change> {
        let spare = (usize::from(self.drawn.shape.replicas)..self.replicas())
            .map(id_of)
            .find(|id| *id > members.highest);
        let address = Vec::new();
        let lost = self.lost.iter().map(|place| id_of(*place)).find(|id| members.is_voter(*id));
        if let Some(lost) = lost {
            return Some(match spare {
                Some(id) => Change::Replace { lost, id, address },
                None => Change::Remove { id: lost },
            });
        }
        let waiting: Vec<ReplicaId> =
            members.list().iter().filter(|one| one.role != Role::Voter).map(|one| one.id).collect();
        match self.random.below(3) {
            0 => spare.map(|id| Change::Standby { id, address }),
            1 => (!waiting.is_empty()).then(|| Change::Promote { id: *self.random.pick(&waiting) }),
            _ if members.voters().count() > least_voters => {
                let all: Vec<ReplicaId> = members.ids().collect();
                Some(Change::Remove { id: *self.random.pick(&all) })
            }
            _ => None,
        }
    }

    fn ask_for(&mut self, change: &Change, members: &Members, primary: Place) {
        let pool = Pool::new(&[Class { size: 256, count: 1 }]);
        let mut payload = pool.draft(256).expect("its only buffer");
        payload.extend(&change.encode()).expect("a change is short");
        let header = FrameHeader::new(Command::Reconfigure, CLUSTER, SHARD);
        let mut frame = Frame { header, payload: Some(payload.seal()) };
        frame.header.op = u64::from(members.number).into();
        let to = Address::Replica { shard: SHARD, replica: id_of(primary) };
        frame.seal(OPERATOR, to, 1, self.events);
        let bytes = [frame.header.as_bytes(), frame.body()].concat();
        let beside = self.replicas() + self.random.index(self.edges());
        self.send(beside, to, Command::Reconfigure, bytes.into());
    }
}

fn id_of(place: Place) -> ReplicaId {
    ReplicaId(u16::try_from(place).expect("few replicas"))
}
