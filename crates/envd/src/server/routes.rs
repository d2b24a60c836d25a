//! All routes, and what every request passes on its way to them.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use http::StatusCode;

use crate::state::Envd;
use crate::{
    auth, collapse, cors, envs, files, filesystem, freeze, fsfreeze, health, init, metrics, process,
    snapshot, sync, user,
};

/// Everything this daemon answers.
pub(crate) fn all(envd: &Arc<Envd>) -> Router {
    let share = || Arc::clone(envd);
    Router::new()
        .merge(health::router(share()))
        .merge(envs::router(share()))
        .merge(init::router(share()))
        .merge(metrics::router(share()))
        .merge(snapshot::router(share()))
        .merge(sync::router(share()))
        .merge(collapse::router(share()))
        .merge(freeze::router(share()))
        .merge(fsfreeze::router(share()))
        .merge(files::router(share()))
        .merge(process::router(share()))
        .merge(filesystem::router(share()))
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") })
        // The last layer is the first that a request meets.
        .layer(from_fn(user::authenticate))
        .layer(from_fn_with_state(share(), auth::require_token))
        .layer(from_fn(cors::allow_any_origin))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use axum::body::Body;
    use http::Request;
    use serde_json::json;
    use tower::ServiceExt as _;

    use super::*;
    use crate::args::Options;
    use crate::server::Peer;

    /// What the host needs when the disk hangs and all threads that may wait for it do.
    #[test]
    fn threads_that_hang_stop_nothing_that_the_host_asks_for() {
        const THREADS: usize = 2;
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS)
            .build()
            .unwrap();
        let (release, hang) = mpsc::channel::<()>();
        runtime.block_on(async {
            let hang = Arc::new(std::sync::Mutex::new(hang));
            for _ in 0..2 * THREADS {
                let hang = Arc::clone(&hang);
                tokio::task::spawn_blocking(move || drop(hang.lock().map(|hang| hang.recv())));
            }
            let stuck = tokio::task::spawn_blocking(|| ());
            let options =
                Options { cgroups: false, system_root: Some(root.path().to_owned()), ..Options::default() };
            let routes = all(&Envd::new(options));
            let ask = async |method: &str, path: &str, body: serde_json::Value| {
                let begin = Instant::now();
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header("content-type", "application/json")
                    .extension(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)))
                    .body(Body::from(body.to_string()))
                    .unwrap();
                let status = routes.clone().oneshot(request).await.unwrap().status().as_u16();
                assert!(begin.elapsed() < Duration::from_secs(5), "{path}: {:?}", begin.elapsed());
                status
            };
            let certificate = "-----BEGIN CERTIFICATE-----\nMAEH\n-----END CERTIFICATE-----\n";
            let init = json!({
                "lifecycleID": "a", "hostname": "h", "hyperloopIP": "192.0.2.1", "caBundle": certificate,
                "sandboxId": "i", "volumeMounts": [{"nfs_target": "192.0.2.1:/x", "path": "/never"}],
            });
            for (method, path, body, expected) in [
                ("GET", "/health", json!({}), 204),
                ("POST", "/init", init, 204),
                ("POST", "/freeze?maxWaitMs=100", json!({}), 200),
                ("POST", "/unfreeze", json!({}), 204),
                // It is no sandbox's own, which is told as fast as all else.
                ("POST", "/fsthaw", json!({}), 503),
                ("POST", "/snapshot/prepare", json!({}), 204),
                ("POST", "/process.Process/List", json!({}), 200),
                ("GET", "/envs", json!({}), 200),
            ] {
                assert_eq!(ask(method, path, body).await, expected, "{path}");
            }
            assert!(std::fs::read_to_string(root.path().join("etc/ssl/certs/ca-certificates.crt")).is_ok());
            assert!(!stuck.is_finished());
            drop(release);
        });
    }
}
