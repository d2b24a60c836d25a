//! The snapshots of this test: what is in one follows from its name.

use std::sync::Arc;

use artifacts::{Image, LocalStore, Staged, Store, load_blob, load_manifest};
use build::{Manifest, ObjectKind, ObjectName, PageSink, Pages, VmmIdentity};
use jiff::{SignedDuration, Timestamp};
use model::{BuildId, MiB, NetworkPolicy, OnTimeout, PausedSandbox, SandboxSpec, Shape, VcpuCount};

const IMAGES: [(ObjectKind, usize); 2] = [(ObjectKind::Memory, 5), (ObjectKind::Disk, 3)];
const PAGE: usize = 4096;
const SHAPE: Shape = Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) };

/// The `number`th pause of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) sandbox: &'static str,
    pub(crate) number: u8,
    /// The pauses, beside it, whose builds it needs.
    pub(crate) needs: &'static [u8],
}

impl Pause {
    pub(crate) fn build(self) -> BuildId {
        format!("{}{}", self.sandbox, self.number).parse().unwrap()
    }

    pub(crate) fn record(self) -> PausedSandbox {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(self.number));
        PausedSandbox {
            spec: SandboxSpec {
                id: self.sandbox.parse().unwrap(),
                team: "team".parse().unwrap(),
                template: "template".parse().unwrap(),
                alias: None,
                build: self.build(),
                shape: SHAPE,
                metadata: [("pause".into(), self.number.to_string())].into(),
                // Longer than a sector.
                env: [("LONG".into(), "x".repeat(600))].into(),
                network: NetworkPolicy::default(),
                on_timeout: OnTimeout::Pause,
                auto_pause_memory: true,
                auto_resume: false,
                auto_resume_reboots: false,
                timeout_secs: 1,
                envd_token: None,
                traffic_token: None,
                started_at: at,
                end_at: at,
                idempotency_key: None,
            },
            build: self.build(),
            paused_at: at,
            envd_version: "1".into(),
        }
    }

    /// A page of the machine at this pause: since the one before, it wrote to one page.
    fn page(self, kind: ObjectKind, page: usize, pages: usize) -> Vec<u8> {
        let written = (1..=self.number).rev().find(|number| touches(*number, page, pages)).unwrap();
        let seed = u32::from(self.sandbox.as_bytes()[0]) + (u32::from(written) << 8);
        let seed = seed + (u32::try_from(page).unwrap() << 16) + ((kind as u32) << 24);
        seed.to_le_bytes().repeat(PAGE / 4)
    }

    /// Writes the build, as far as a supervisor does before the commit.
    pub(crate) fn stage(self, store: &LocalStore) -> (Staged, Manifest) {
        let staged = store.begin(&self.build()).unwrap();
        let parent = (!self.needs.is_empty()).then(|| Self { number: self.number - 1, ..self }.build());
        let [memory, disk] = IMAGES.map(|(kind, pages)| {
            let parent = parent.as_ref().map(|parent| Arc::new(Image::open(store, parent, kind).unwrap()));
            let mut writer = staged.writer(kind, parent, pages as u64).unwrap();
            let stored = |page: &usize| self.needs.is_empty() || touches(self.number, *page, pages);
            for page in (0..pages).filter(stored) {
                writer.data(page as u64, &self.page(kind, page, pages)).unwrap();
            }
            writer.finish().unwrap()
        });
        let state = staged.put_blob(ObjectName::DeviceState, self.build().as_str().as_bytes()).unwrap();
        let manifest = Manifest {
            id: self.build(),
            parent,
            created_at: Timestamp::UNIX_EPOCH,
            owner: Some(self.sandbox.parse().unwrap()),
            shape: SHAPE,
            vmm: VmmIdentity {
                name: "qemu".into(),
                version: "1".into(),
                accel: "tcg".into(),
                cpu: "max".into(),
                machine: "microvm".into(),
            },
            tsc_khz: None,
            envd_version: "1".into(),
            memory: Some(memory),
            disk,
            device_state: Some(state),
            working_set: vec![],
            boot: None,
        };
        (staged, manifest)
    }

    /// Whether the sandbox can be resumed from the build as it was: every page and every byte is read and compared.
    pub(crate) fn is_whole(self, store: &LocalStore) -> Result<(), String> {
        self.is_whole_in(store, &self.build())
    }

    /// The same for another build that is to have the same content.
    pub(crate) fn is_whole_in(self, store: &LocalStore, build: &BuildId) -> Result<(), String> {
        let manifest = load_manifest(store, build).map_err(|error| error.to_string())?;
        let info = manifest.device_state.ok_or("it has no device state")?;
        let state = load_blob(store, build, ObjectName::DeviceState, &info);
        if state.map_err(|error| error.to_string())? != self.build().as_str().as_bytes() {
            return Err("its device state is another's".into());
        }
        for (kind, pages) in IMAGES {
            let image = Image::open(store, build, kind).map_err(|error| error.to_string())?;
            let mut bytes = vec![0; pages * PAGE];
            image.read(0, &mut bytes).map_err(|error| error.to_string())?;
            for (page, found) in bytes.chunks(PAGE).enumerate() {
                if found != self.page(kind, page, pages) {
                    return Err(format!("page {page} of its {kind:?} is another's"));
                }
            }
        }
        Ok(())
    }
}

fn touches(number: u8, page: usize, pages: usize) -> bool {
    number == 1 || usize::from(number) % pages == page
}
