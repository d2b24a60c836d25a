//! Many at once.

use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::Barrier;

use crate::harness::{Served, ask, full, guest, http1, http2};

fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn echo() -> std::net::SocketAddr {
    guest(Router::new().fallback(any(async |body: Bytes| body)))
}

/// Sends so many requests in the same moment, each with its own body, and wants each its own answer.
async fn burst(served: &Served, client: &crate::harness::HttpClient, count: usize) {
    let start = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let body = format!("request {n}");
            let request = served.request("POST", "/").body(full(body.clone())).unwrap();
            let (client, start) = (client.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                assert_eq!(ask(&client, request).await, (200, body));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_hundred_at_once_all_get_their_own_answer() {
    allow_many_sockets();
    let served = Served::one(echo()).await;
    burst(&served, &http1(), 1500).await;
    burst(&served, &http2(), 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_never_carry_a_foreign_answer() {
    let served = Served::one(echo()).await;
    for client in [http1(), http2()] {
        let tasks: Vec<_> = (0..32)
            .map(|worker| {
                let requests: Vec<_> = (0..50)
                    .map(|n| {
                        let body = format!("worker {worker} request {n}");
                        (served.request("POST", "/").body(full(body.clone())).unwrap(), body)
                    })
                    .collect();
                let client = client.clone();
                tokio::spawn(async move {
                    for (request, body) in requests {
                        assert_eq!(ask(&client, request).await, (200, body));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }
    assert!(served.world.connects() < 200, "{} connections for 64 at a time", served.world.connects());
}
