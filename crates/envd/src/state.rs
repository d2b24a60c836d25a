//! What the rooms of the daemon share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::Secret;
use tokio::sync::watch;

use crate::args::Options;
use crate::cgroups::Cgroups;
use crate::freeze::Workload;
use crate::fsfreeze::Freezer;
use crate::init::{Follower, Machine, Volumes};
use crate::metrics::CpuMeter;
use crate::push::{LogQueue, Shipping};
use crate::server::Moments;
use crate::sync::Flush;

/// The user that requests without a user act for, until `/init` says otherwise.
const INITIAL_USER: &str = "root";

/// The daemon's state. Locks in here are held for as long as it takes to copy a value, never across a wait.
#[derive(Debug)]
pub(crate) struct Envd {
    options: Options,
    cgroups: Cgroups,
    cpu_meter: CpuMeter,
    flush: Flush,
    freezer: Freezer,
    log: Arc<LogQueue>,
    machine: Machine,
    metadata: Option<Follower>,
    moments: Moments,
    settings: RwLock<Settings>,
    shipping: Shipping,
    volumes: Volumes,
    workload: Arc<Workload>,
}

/// What `/init` sets.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Who holds it may do everything; nobody has to when absent.
    pub(crate) access_token: Option<Arc<Secret>>,
    /// The user that requests without a user act for.
    pub(crate) default_user: String,
    /// Where processes start and empty paths lead; the user's home when absent.
    pub(crate) default_workdir: Option<String>,
    /// Variables of every process that describe the sandbox. A client cannot change them.
    pub(crate) internal_env: BTreeMap<String, String>,
    /// Variables of every process that the client chose.
    pub(crate) user_env: BTreeMap<String, String>,
    /// Names the time between a boot or resume and the next pause.
    pub(crate) lifecycle_id: Option<String>,
    /// The newest timestamp that came with `/init`.
    pub(crate) last_init: Option<jiff::Timestamp>,
}

impl Envd {
    /// The state of a daemon that has just started.
    pub(crate) fn new(options: Options) -> Arc<Self> {
        let cgroups = if options.cgroups { Cgroups::make(&options.cgroup_root) } else { Cgroups::default() };
        let groups = cgroups.all().map(|(name, group)| (name, group.map(Into::into)));
        Arc::new(Self {
            log: Arc::new(LogQueue::new(options.host.is_some(), options.verbose)),
            machine: Machine::new(options.guest, options.system_root.clone()),
            metadata: options.mmds.map(Follower::new),
            volumes: Volumes::default(),
            options,
            cgroups,
            workload: Arc::new(Workload::new(groups.into())),
            cpu_meter: CpuMeter::default(),
            flush: Flush::default(),
            freezer: Freezer::default(),
            moments: Moments::default(),
            shipping: Shipping::default(),
            settings: RwLock::new(Settings {
                access_token: None,
                default_user: INITIAL_USER.to_owned(),
                default_workdir: None,
                internal_env: BTreeMap::from([("E2B_SANDBOX".to_owned(), "true".to_owned())]),
                user_env: BTreeMap::new(),
                lifecycle_id: None,
                last_init: None,
            }),
        })
    }

    /// How the daemon was started.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The log lines for the host.
    pub(crate) fn log(&self) -> &Arc<LogQueue> {
        &self.log
    }

    /// Whether they are sent.
    pub(crate) fn shipping(&self) -> &Shipping {
        &self.shipping
    }

    /// Counts how often this daemon was resumed from a snapshot. Who is on the other side of a connection that is older
    /// than the last time is gone.
    pub(crate) fn resumes(&self) -> &watch::Sender<u64> {
        &self.moments.resumes
    }

    /// That, and how often it came to rest for one.
    pub(crate) fn moments(&self) -> &Moments {
        &self.moments
    }

    /// The machine around us.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The metadata service, where there is one.
    pub(crate) fn metadata(&self) -> Option<&Follower> {
        self.metadata.as_ref()
    }

    /// Network volumes that are mounted.
    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Writes everything to the disks.
    pub(crate) fn flush(&self) -> &Flush {
        &self.flush
    }

    /// Keeps the root file system as it is.
    pub(crate) fn freezer(&self) -> &Freezer {
        &self.freezer
    }

    /// The processes of the sandbox's user, as a whole.
    pub(crate) fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// How busy the processors are.
    pub(crate) fn cpu_meter(&self) -> &CpuMeter {
        &self.cpu_meter
    }

    /// Where processes go.
    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The access token, once there is one.
    pub(crate) fn access_token(&self) -> Option<Arc<Secret>> {
        self.settings().access_token.clone()
    }

    /// The user that requests without a user act for.
    pub(crate) fn default_user(&self) -> String {
        self.settings().default_user.clone()
    }

    /// Where processes start and empty paths lead; the user's home when absent.
    pub(crate) fn default_workdir(&self) -> Option<String> {
        self.settings().default_workdir.clone()
    }

    /// The variables of every process; those that describe the sandbox win.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let settings = self.settings();
        let mut environment = settings.user_env.clone();
        environment.extend(settings.internal_env.clone());
        environment
    }

    /// Reads the settings. No update leaves them half done, so those behind a poisoned lock are whole.
    pub(crate) fn settings(&self) -> RwLockReadGuard<'_, Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the settings.
    pub(crate) fn settings_mut(&self) -> RwLockWriteGuard<'_, Settings> {
        self.settings.write().unwrap_or_else(PoisonError::into_inner)
    }
}
