use super::*;
pub struct Chain(Vec<Arc<Named>>);
pub struct Permit(());
pub struct PendingBody {
    pub max: u64,
}
pub enum Admission {
    Permit(Permit),
    NeedsBody(PendingBody),
}
impl Chain {
    pub fn compile(v: Vec<Arc<Named>>, _c: &mut crate::diagnose::Compiler<'_>) -> Chain {
        Chain(v)
    }
    pub fn body_limit(&self, _h: &RequestHead<'_>) -> Option<u64> {
        None
    }
    pub fn check_head(
        &self,
        cx: &mut PolicyCx<'_>,
        _s: &mut Vec<ShadowHit>,
    ) -> Result<Admission, Rejection> {
        for p in &self.0 {
            p.policy.check(cx)?;
        }
        Ok(Admission::Permit(Permit(())))
    }
}
impl PendingBody {
    pub fn check_body(
        self,
        _c: &Chain,
        _cx: &mut PolicyCx<'_>,
        _b: &[u8],
        _s: &mut Vec<ShadowHit>,
    ) -> Result<Permit, Rejection> {
        Ok(Permit(()))
    }
}
