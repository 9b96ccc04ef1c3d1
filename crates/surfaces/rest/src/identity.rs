//! Who asks: the user behind a Unix socket, or the bearer of a token.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use service::{Caller, CallerProof, Job};
use types::Role;

use crate::error::Refusal;
use crate::passwd;
use crate::routes::Api;
use crate::sources::source_of;

/// Longest `Authorization` value: a token has about 100 bytes.
const MAX_AUTHORIZATION_BYTES: usize = 512;

/// The door through which a connection came. Each request carries that of its connection.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// TCP: nobody is known yet, but where they are.
    Tcp {
        /// The client.
        source: IpAddr,
        /// This end, by which a client may call us.
        local: Option<IpAddr>,
    },
    /// Unix socket: the kernel told who connected.
    Socket(Arc<Caller>),
}

impl Door {
    /// The door of a process of `user_id`.
    pub(crate) async fn of_user(user_id: u32) -> Self {
        let role = role_of(user_id, rustix::process::geteuid().as_raw());
        Self::Socket(Arc::new(Caller {
            user: passwd::user_name(user_id).await,
            role,
            proof: CallerProof::Socket,
        }))
    }
}

/// Root and the node's own user administrate, others are members. But experiments run as the node's user: where that is
/// root, a member could become root on every machine, so others only read and need a token from an admin.
fn role_of(user_id: u32, node_user_id: u32) -> Role {
    if user_id == 0 || user_id == node_user_id {
        Role::Admin
    } else if node_user_id == 0 {
        Role::Viewer
    } else {
        Role::Member
    }
}

/// What decides the role of `caller`, in words.
pub(crate) fn reason(caller: &Caller) -> String {
    let node_is_root = rustix::process::geteuid().is_root();
    match (&caller.proof, caller.role) {
        (CallerProof::Token { .. }, _) => "an administrator made the token so".to_owned(),
        (CallerProof::Socket, Role::Admin) => {
            "on this machine root and the user that runs the node administrate".to_owned()
        }
        (CallerProof::Socket, _) if node_is_root => {
            "other users of this machine only read, since the node runs as root and experiments run as the node's user unless it says otherwise; with a token they are what an administrator made them".to_owned()
        }
        (CallerProof::Socket, _) => "other users of this machine are members".to_owned(),
    }
}

/// The caller of a request, known for sure.
pub(crate) struct Authenticated(pub(crate) Arc<Caller>);

impl Authenticated {
    /// Refuses those who may only read; `service` checks the finer rights.
    pub(crate) fn may_write(&self) -> Result<(), Refusal> {
        if self.0.role >= Role::Member {
            Ok(())
        } else {
            Err(Refusal::read_only())
        }
    }
}

impl FromRequestParts<Arc<Api>> for Authenticated {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
            let source = name_of(parts.extensions.get());
            let caller = api.service.authenticate(bearer(value)?, &source).await?;
            return Ok(Self(Arc::new(caller)));
        }
        caller_of(parts.extensions.get()).map(Self)
    }
}

/// Who reports something of an experiment: a person, or the job itself by the token in its environment.
pub(crate) enum Reporter {
    /// A person.
    Person(Arc<Caller>),
    /// A job that runs on this node.
    Job(Job),
}

impl FromRequestParts<Arc<Api>> for Reporter {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let value = parts.headers.get(header::AUTHORIZATION);
        if let Some(token) = value.and_then(|value| bearer(value).ok()) // told below what is wrong with it
            && service::Handle::is_of_job(token)
        {
            return Ok(Self::Job(api.service.job_of(token).await?));
        }
        let person = Authenticated::from_request_parts(parts, api).await?;
        person.may_write()?;
        Ok(Self::Person(person.0))
    }
}

/// Where bad tokens of a connection are counted.
fn name_of(door: Option<&Door>) -> String {
    match door {
        Some(Door::Tcp { source, .. }) => source_of(*source).to_string(),
        Some(Door::Socket(caller)) => format!("the socket, by {}", caller.user),
        None => "nowhere".to_owned(),
    }
}

/// The caller that a connection proves by itself.
fn caller_of(door: Option<&Door>) -> Result<Arc<Caller>, Refusal> {
    match door {
        Some(Door::Socket(caller)) => Ok(Arc::clone(caller)),
        Some(Door::Tcp { .. }) | None => Err(Refusal::token_needed("this address needs a token")),
    }
}

/// The token in an `Authorization` value.
fn bearer(value: &HeaderValue) -> Result<&str, Refusal> {
    let token = value
        .to_str()
        .ok() // the reason does not matter: it is no token
        .filter(|text| text.len() <= MAX_AUTHORIZATION_BYTES)
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty());
    token.ok_or_else(|| Refusal::token_needed("the Authorization header holds no bearer token"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn only_a_bearer_token_is_taken() {
        let take = |text: &'static str| {
            bearer(&HeaderValue::from_static(text))
                .ok()
                .map(str::to_owned)
        };
        assert_eq!(take("Bearer mt1.a.b"), Some("mt1.a.b".to_owned()));
        assert_eq!(take("bearer  mt1.a.b "), Some("mt1.a.b".to_owned()));
        for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "mt1.a.b"] {
            assert_eq!(take(bad), None, "{bad}");
        }
        let long = HeaderValue::from_str(&format!("Bearer {}", "x".repeat(600))).unwrap();
        assert!(bearer(&long).is_err());
    }

    #[tokio::test]
    async fn root_and_the_own_user_administrate_and_others_are_less() {
        let role = async |user_id| match Door::of_user(user_id).await {
            Door::Socket(caller) => caller.role,
            Door::Tcp { .. } => panic!("a socket user came by TCP"),
        };
        assert_eq!(role(0).await, Role::Admin);
        assert_eq!(role(rustix::process::geteuid().as_raw()).await, Role::Admin);
        // A member, or only a viewer where this test runs as root.
        let own = rustix::process::geteuid().as_raw();
        let other = 3_999_999_999;
        assert_eq!(role(other).await, role_of(other, own));
        assert!(role(other).await < Role::Admin);
    }

    #[test]
    fn without_a_token_only_a_socket_user_is_somebody() {
        let caller = Arc::new(Caller {
            user: "ada".to_owned(),
            role: Role::Member,
            proof: CallerProof::Socket,
        });
        let known = caller_of(Some(&Door::Socket(Arc::clone(&caller)))).unwrap();
        assert_eq!(known.user, "ada");
        let tcp = Door::Tcp {
            source: [127, 0, 0, 1].into(),
            local: None,
        };
        for nobody in [Some(&tcp), None] {
            let refusal = caller_of(nobody).unwrap_err();
            assert_eq!(refusal.into_response().status(), 401);
        }
    }

    #[test]
    fn a_viewer_may_not_write_and_the_others_may() {
        let status = |role| {
            let user = "ada".to_owned();
            let proof = CallerProof::Socket;
            let caller = Authenticated(Arc::new(Caller { user, role, proof }));
            caller
                .may_write()
                .map_err(|refusal| refusal.into_response().status().as_u16())
        };
        assert_eq!(status(Role::Viewer), Err(403));
        assert_eq!(status(Role::Member), Ok(()));
        assert_eq!(status(Role::Admin), Ok(()));
    }
}
