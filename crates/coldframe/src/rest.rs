//! The running server's REST API, with the key that `coldframe env` prints.

use std::net::SocketAddr;

use model::Secret;

use crate::http::Connection;
use crate::state::StateDir;

/// Where the server of a state directory listens, and the key that opens it.
pub(crate) struct Rest {
    pub(crate) address: SocketAddr,
    key: Secret,
}

impl Rest {
    pub(crate) fn find(state: &StateDir) -> Result<Self, String> {
        let server = state.server().ok_or_else(|| {
            let dir = state.root().display();
            format!("no server runs for {dir}; start one with `coldframe up`, or name another with --state")
        })?;
        let key = state.key().ok_or("the server has no default key: make one with `coldframe key create`")?;
        let address = server.url.trim_start_matches("http://").parse();
        Ok(Self { address: address.map_err(|error| format!("{}: {error}", server.url))?, key })
    }

    /// A connection for requests to the API.
    pub(crate) async fn connect(&self) -> Result<Connection, String> {
        Connection::open(self.address, vec![("x-api-key", self.key.expose().to_owned())]).await
    }
}
