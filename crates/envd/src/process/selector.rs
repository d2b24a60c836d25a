//! Which process a request is about.

use buffa::MessageField;
use connectrpc::ConnectError;
use envd_proto::process::ProcessSelector;
use envd_proto::process::process_selector::Selector as Oneof;

/// Which process a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    /// The one with this id.
    Pid(u32),
    /// The one that was started with this name.
    Tag(String),
}

impl Selector {
    /// Reads the selector of a request.
    ///
    /// # Errors
    /// `unimplemented` when there is none: that is how a selector of a future protocol looks to us.
    pub(super) fn new<P: buffa::ProtoBox<ProcessSelector>>(
        field: MessageField<ProcessSelector, P>,
    ) -> Result<Self, ConnectError> {
        match field.into_option().and_then(|selector| selector.selector) {
            Some(Oneof::Pid(pid)) => Ok(Self::Pid(pid)),
            Some(Oneof::Tag(tag)) => Ok(Self::Tag(tag)),
            None => {
                Err(ConnectError::unimplemented("invalid input type: a process is selected by pid or tag"))
            }
        }
    }

    /// Whether a process with this id and name is meant.
    pub(super) fn matches(&self, pid: u32, tag: Option<&str>) -> bool {
        match self {
            Self::Pid(wanted) => *wanted == pid,
            Self::Tag(wanted) => tag == Some(wanted),
        }
    }

    /// The error for a process that is not there.
    pub(super) fn not_found(&self) -> ConnectError {
        ConnectError::not_found(match self {
            Self::Pid(pid) => format!("process with pid {pid} not found"),
            Self::Tag(tag) => format!("process with tag {tag} not found"),
        })
    }
}
