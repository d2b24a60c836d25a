use std::time::Duration;

/// What an operator may choose. [`ApiConfig::default`] fits one machine.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// The domain under which `<port>-<id>.<domain>` leads to sandboxes; told to clients.
    pub domain: Option<String>,
    /// The longest life of a sandbox from its start or its last resume; a team's own limit may be shorter.
    pub max_timeout: Duration,
    /// A sandbox's life when a `POST /sandboxes` or `…/resume` does not say.
    pub default_timeout_v1: Duration,
    /// A new sandbox's life when a `POST /v2/sandboxes` or a fork does not say, and when `connect` does not.
    pub default_timeout_v2: Duration,
    /// How long the client of a create, a pause, a resume, a snapshot or a fork waits before it is answered 504.
    pub create_deadline: Duration,
    /// How long any other client waits before it is answered 504.
    pub request_deadline: Duration,
    /// How long a client may take to send a body.
    pub body_deadline: Duration,
    /// Creates under way at once; one more is answered 503, and one of a fork waits. Bounds the memory of their bodies, too.
    pub max_creates: usize,
    /// Requests under way at once; one more is answered 503.
    pub max_requests: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            domain: None,
            max_timeout: Duration::from_secs(24 * 3600),
            default_timeout_v1: Duration::from_secs(15),
            default_timeout_v2: Duration::from_secs(300),
            create_deadline: Duration::from_secs(120),
            request_deadline: Duration::from_secs(30),
            body_deadline: Duration::from_secs(20),
            max_creates: 128,
            max_requests: 2048,
        }
    }
}
