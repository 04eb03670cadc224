//! What every call to the simulator works with.

use http::Response;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::books::Books;
use super::control::Guard;
use super::echo::Echoes;
use super::recorder::Recorder;
use super::script::{FaultPlan, Instead, Script};
use super::state_file::Journal;
use super::wire::{Cut, WireBody};

pub(super) struct Shared {
    pub(super) guard: Guard,
    pub(super) books: Books,
    pub(super) echoes: Echoes,
    pub(super) journal: Journal,
    pub(super) script: Script,
    pub(super) recorder: Recorder,
    pub(super) task_ms: u64,
    pub(super) jitter_ms: u64,
    pub(super) at_once: Option<String>,
    pub(super) fail_ratio: f64,
    /// Without a slash at the end.
    pub(super) public_url: String,
    /// Cancelled when the simulator begins to shut down.
    pub(super) stopping: CancellationToken,
}

impl Shared {
    /// Gives the honest answer, or does what the script says instead.
    pub(super) async fn carry_out(
        &self,
        plan: &FaultPlan,
        honest: impl FnOnce() -> Response<WireBody>,
    ) -> Result<Response<WireBody>, Cut> {
        let (response, cut) = match &plan.instead {
            None => (honest(), false),
            Some(Instead::Hang { .. }) => {
                self.stopping.cancelled().await;
                return Err(Cut);
            }
            Some(Instead::CutBefore | Instead::CutAfter { partial: false }) => return Err(Cut),
            Some(Instead::CutAfter { partial: true }) => (honest(), true),
            Some(Instead::Answer { canned, .. }) => (answer::scripted(canned), false),
        };
        let response = answer::mistreat(response, plan);
        Ok(if cut { response.map(WireBody::cut_half_way) } else { response })
    }
}
