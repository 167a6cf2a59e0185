//! The policy that knows the method.

use crate::METHOD;
use alloc::boxed::Box;
use core::fmt;
use culex_core::Credentials;
use culex_core::middleware::{Authenticate, Decision};
use culex_core::packet::ReasonCode;

/// Tells the Authentication middleware that SCRAM-SHA-256 is known, and what becomes of who does not use it.
///
/// It answers nothing itself: each step is a question to the outside, for [`Scram::step`](crate::Scram::step).
pub struct ScramPolicy {
    /// Decides about a CONNECT without a method.
    without: Option<Box<dyn Authenticate>>,
}

impl ScramPolicy {
    /// Who comes without an Authentication Method stays out, and so does every client of MQTT 3.1 and 3.1.1.
    #[must_use]
    pub fn only() -> Self {
        Self { without: None }
    }

    /// Who comes without an Authentication Method, as every client of MQTT 3.1 and 3.1.1 does, is for another policy to
    /// decide about; so are the methods that policy knows. Where it asks, the question has another method or none.
    #[must_use]
    pub fn or(policy: impl Authenticate + 'static) -> Self {
        Self { without: Some(Box::new(policy)) }
    }
}

impl Authenticate for ScramPolicy {
    fn authenticate(&mut self, who: &Credentials) -> Decision {
        match &mut self.without {
            Some(policy) => policy.authenticate(who),
            None => Decision::Deny(ReasonCode::NotAuthorized),
        }
    }

    fn method(&self, name: &str) -> bool {
        name == METHOD || self.without.as_ref().is_some_and(|policy| policy.method(name))
    }
}

impl fmt::Debug for ScramPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramPolicy").field("only", &self.without.is_none()).finish()
    }
}
