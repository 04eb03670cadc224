//! What may happen to an organisation.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A grant or an adjustment.
    Credit(i64),
    Limits {
        overdraft: i64,
        cap: i32,
    },
    /// At once, in this order.
    Reserve(Vec<Wish>),
    /// At once, in this order, by whoever it may be; the same hold may be named twice.
    Steps(Vec<(Index, Kind)>),
    /// The owner loses its guard, after or before it may have sent the request.
    Drop {
        hold: Index,
        sent: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) list: i64,
    pub(super) factor_bp: i32,
    /// One of few idempotency keys.
    pub(super) idem: Option<u8>,
    /// One of few API keys and bodies.
    pub(super) key: Option<u8>,
    pub(super) body: u8,
    pub(super) guarded: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// With one of few upstream ids.
    Run(u8),
    Settle(i64),
    Fail(i64),
    Refuse,
    Abandon,
    Doubt,
    WriteOff,
    /// With one of few upstream ids.
    LateRun(u8),
    LateSettle(i64),
    LateFail(i64),
    LateDrop,
}

fn amounts() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(0), 30 => 1..60i64, 4 => 60..400i64, 1 => Just(1 << 62), 1 => Just(i64::MAX)]
}

fn wishes() -> impl Strategy<Value = Wish> {
    let factor = prop_oneof![6 => Just(10_000), 1 => Just(8_333), 1 => Just(0), 1 => Just(12_345)];
    let idem = prop::option::weighted(0.4, 0..3u8);
    let key = prop::option::weighted(0.8, 0..2u8);
    (amounts(), factor, idem, key, 0..2u8, prop::bool::weighted(0.7)).prop_map(
        |(list, factor_bp, idem, key, body, guarded)| Wish { list, factor_bp, idem, key, body, guarded },
    )
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => (0..4u8).prop_map(Kind::Run),
        4 => amounts().prop_map(Kind::Settle),
        2 => amounts().prop_map(Kind::Fail),
        2 => Just(Kind::Refuse),
        1 => Just(Kind::Abandon),
        3 => Just(Kind::Doubt),
        2 => Just(Kind::WriteOff),
        3 => (0..4u8).prop_map(Kind::LateRun),
        2 => amounts().prop_map(Kind::LateSettle),
        1 => amounts().prop_map(Kind::LateFail),
        1 => Just(Kind::LateDrop),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let signed = prop_oneof![5 => amounts(), 2 => amounts().prop_map(|amount| -amount)];
    let overdrafts = prop_oneof![4 => Just(0), 4 => 1..50i64, 1 => Just(i64::MAX)];
    prop_oneof![
        3 => signed.prop_map(Op::Credit),
        1 => (overdrafts, 0..4i32).prop_map(|(overdraft, cap)| Op::Limits { overdraft, cap }),
        6 => vec(wishes(), 1..6).prop_map(Op::Reserve),
        8 => vec((any::<Index>(), kinds()), 1..5).prop_map(Op::Steps),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(hold, sent)| Op::Drop { hold, sent }),
    ]
}

pub(super) fn histories() -> impl Strategy<Value = Vec<Op>> {
    (1..400i64, vec(ops(), 1..12)).prop_map(|(first, mut ops)| {
        ops.insert(0, Op::Credit(first));
        ops
    })
}
