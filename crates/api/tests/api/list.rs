//! Lists: pages, orders, filters, and cursors that do not fit.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::scene::{Scene, template};

/// Like Python's `urllib.parse.quote`.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A filter as clients write it: every part encoded, the whole encoded as a form, and again as a query.
fn filter(pairs: &[(&str, &str)]) -> String {
    let form: Vec<_> =
        pairs.iter().map(|(k, v)| format!("{}={}", encode(&encode(k)), encode(&encode(v)))).collect();
    encode(&form.join("&"))
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["sandboxID"].as_str().unwrap().to_owned())
        .collect()
}

/// Follows the pages to the end.
async fn all_pages(scene: &Scene, query: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let next = token.map(|token| format!("&nextToken={token}")).unwrap_or_default();
        let answer = scene.client().get(&format!("/v2/sandboxes?{query}{next}")).await;
        pages.push(ids(&answer));
        token = answer.header("x-next-token").map(str::to_owned);
        if token.is_none() {
            return pages;
        }
    }
}

/// 250 sandboxes, several of them started in the same second.
fn crowd(scene: &Scene) {
    for n in 0..250 {
        scene.sandbox(n / 3, &[("n", &n.to_string())]);
    }
}

#[tokio::test]
async fn pages_have_everything_once_in_order() {
    let scene = Scene::new().await;
    crowd(&scene);
    let pages = all_pages(&scene, "limit=100").await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    let newest_first = pages.concat();
    assert_eq!(newest_first.iter().collect::<BTreeSet<_>>().len(), 250);
    let mut expected = scene.fleet.all();
    expected
        .sort_by(|a, b| b.spec.started_at.cmp(&a.spec.started_at).then_with(|| a.spec.id.cmp(&b.spec.id)));
    assert!(newest_first.iter().eq(expected.iter().map(|record| record.spec.id.as_str())));

    let mut oldest_first = all_pages(&scene, "limit=7&order=asc").await.concat();
    oldest_first.reverse();
    assert_eq!(newest_first, oldest_first);
}

#[tokio::test]
async fn a_full_last_page_has_no_successor() {
    let scene = Scene::new().await;
    for n in 0..4 {
        scene.sandbox(n, &[]);
    }
    assert_eq!(all_pages(&scene, "limit=2").await.len(), 2);
    assert_eq!(all_pages(&scene, "limit=4").await.len(), 1);
}

#[tokio::test]
async fn sandboxes_that_come_and_go_do_not_shift_the_pages() {
    let scene = Scene::new().await;
    let records: Vec<_> = (0..6).map(|n| scene.sandbox(n * 10, &[]).spec.id.to_string()).collect();
    let first = scene.client().get("/v2/sandboxes?limit=3").await;
    assert_eq!(ids(&first), records[..3]);
    scene.sandbox(0, &[]);
    scene.client().delete(&format!("/sandboxes/{}", records[2])).await.is(204);
    scene.client().delete(&format!("/sandboxes/{}", records[3])).await.is(204);
    let token = first.header("x-next-token").unwrap();
    let second = scene.client().get(&format!("/v2/sandboxes?limit=3&nextToken={token}")).await;
    assert_eq!(ids(&second), records[4..]);
}

#[tokio::test]
async fn the_total_counts_what_fits_the_filter_on_every_page() {
    let scene = Scene::new().await;
    for n in 0..5 {
        scene.sandbox(n, &[("odd", if n % 2 == 1 { "yes" } else { "no" })]);
    }
    let all = scene.client().get("/v2/sandboxes?limit=2").await;
    assert_eq!(all.header("x-total-running"), Some("5"));
    let odd =
        scene.client().get(&format!("/v2/sandboxes?limit=1&metadata={}", filter(&[("odd", "yes")]))).await;
    assert_eq!(odd.header("x-total-running"), Some("2"));
    let paused = scene.client().get("/v2/sandboxes?state=paused").await;
    assert_eq!((ids(&paused).len(), paused.header("x-total-running")), (0, None));
}

#[tokio::test]
async fn cursors_that_do_not_fit() {
    let scene = Scene::new().await;
    for n in 0..3 {
        scene.sandbox(n, &[]);
    }
    let client = scene.client();
    let down = client.get("/v2/sandboxes?limit=1").await.header("x-next-token").unwrap().to_owned();
    let up = client.get("/v2/sandboxes?limit=1&order=asc").await.header("x-next-token").unwrap().to_owned();
    let flipped = client.get(&format!("/v2/sandboxes?order=asc&nextToken={down}")).await;
    flipped.is_error(400, "given for order=desc");
    client.get(&format!("/v2/sandboxes?nextToken={up}")).await.is_error(400, "given for order=asc");
    for bad in ["garbage", "%00", "AAAA", &down[1..], &down[..down.len() / 2], &"A".repeat(5000)] {
        client.get(&format!("/v2/sandboxes?nextToken={bad}")).await.is_error(400, "nextToken");
    }
    assert_eq!(ids(&client.get("/v2/sandboxes?nextToken=").await).len(), 3);
}

#[tokio::test]
async fn parameters_out_of_range() {
    let scene = Scene::new().await;
    for (query, text) in [
        ("limit=0", "limit must be a number from 1 to 100"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "'ten'"),
        ("order=up", "order must be asc or desc"),
        ("state=dead", "state must be running or paused"),
        ("state=running,dead", "'dead'"),
        ("startedAfter=yesterday", "startedAfter must be a time"),
        ("metadata=%25zz", "percent-encoded"),
        ("metadata=lonely", "key=value"),
        ("template=a/b/c", "is not a template name"),
    ] {
        scene.client().get(&format!("/v2/sandboxes?{query}")).await.is_error(400, text);
    }
}

#[tokio::test]
async fn metadata_in_any_script_is_found() {
    let scene = Scene::new().await;
    let odd = [("grün & blau", "a=b c+d%20"), ("猫", "🐈‍⬛"), ("slash/", "?#[]")];
    let wanted = scene.sandbox(1, &odd).spec.id.to_string();
    scene.sandbox(2, &odd[..2]);
    scene.sandbox(3, &[("猫", "dog")]);
    for path in ["/v2/sandboxes", "/sandboxes"] {
        assert_eq!(
            ids(&scene.client().get(&format!("{path}?metadata={}", filter(&odd))).await),
            std::slice::from_ref(&wanted)
        );
        assert_eq!(
            ids(&scene.client().get(&format!("{path}?metadata={}", filter(&odd[1..2]))).await).len(),
            2
        );
        assert!(
            ids(&scene.client().get(&format!("{path}?metadata={}", filter(&[("猫", "")]))).await).is_empty()
        );
    }
    assert_eq!(ids(&scene.client().get("/v2/sandboxes?metadata=").await).len(), 3);
}

#[tokio::test]
async fn the_exact_text_of_a_python_client() {
    let scene = Scene::new().await;
    let wanted = scene.sandbox(1, &[("a", "b c")]).spec.id.to_string();
    let listed =
        scene.client().get("/v2/sandboxes?metadata=a%3Db%252520c&state=running%2Cpaused&limit=100").await;
    assert_eq!(ids(&listed), [wanted]);
}

#[tokio::test]
async fn states_in_every_spelling_of_a_list() {
    let scene = Scene::new().await;
    scene.sandbox(1, &[]);
    for (query, count) in [
        ("state=running", 1),
        ("state=running,paused", 1),
        ("state=paused&state=running", 1),
        ("state=paused", 0),
        ("state=", 1),
        ("", 1),
    ] {
        assert_eq!(ids(&scene.client().get(&format!("/v2/sandboxes?{query}")).await).len(), count, "{query}");
    }
}

#[tokio::test]
async fn by_start_and_by_template() {
    let scene = Scene::new().await;
    let old = scene.sandbox(1000, &[]).spec.id.to_string();
    let record = scene.sandbox(10, &[]);
    let new = record.spec.id.to_string();
    let after = Timestamp::from_second(Timestamp::now().as_second() - 500).unwrap();
    let plain = after.to_string();
    for time in
        [plain.clone(), plain.replace('Z', "%2B00:00"), plain.replace('Z', "+00:00"), plain.replace('Z', "")]
    {
        let listed = scene.client().get(&format!("/v2/sandboxes?startedAfter={time}")).await;
        assert_eq!(ids(&listed), std::slice::from_ref(&new), "{time}");
    }
    // "At or after", say the clients' documents.
    let same = record.spec.started_at;
    assert_eq!(
        ids(&scene.client().get(&format!("/v2/sandboxes?startedAfter={same}")).await),
        std::slice::from_ref(&new)
    );

    let other = template(Some(&scene.team), "other");
    scene.catalog.put_template(&other).await.unwrap();
    for name in ["base", scene.base.id.as_str()] {
        let listed = scene.client().get(&format!("/v2/sandboxes?order=asc&template={name}")).await;
        assert_eq!(ids(&listed), [old.clone(), new.clone()], "{name}");
    }
    for name in ["other", "unknown"] {
        assert!(ids(&scene.client().get(&format!("/v2/sandboxes?template={name}")).await).is_empty());
    }
}

#[tokio::test]
async fn the_first_version_gives_everything_at_once() {
    let scene = Scene::new().await;
    crowd(&scene);
    let (_, stranger) = scene.stranger().await;
    assert_eq!(ids(&scene.client().get("/sandboxes").await).len(), 250);
    assert_eq!(stranger.get("/sandboxes").await.is(200), json!([]));
}

#[tokio::test]
async fn a_line_has_every_field_that_clients_need_and_no_token() {
    let scene = Scene::new().await;
    scene.sandbox(1, &[("a", "b")]);
    let body = scene.client().get("/v2/sandboxes").await.is(200);
    let line = body[0].as_object().unwrap();
    for field in [
        "templateID",
        "sandboxID",
        "clientID",
        "startedAt",
        "endAt",
        "cpuCount",
        "memoryMB",
        "diskSizeMB",
        "state",
        "envdVersion",
        "alias",
        "metadata",
    ] {
        assert!(line.get(field).is_some_and(|value| value != &Value::Null), "{field}");
    }
    assert!(!body.to_string().contains("Token"));
}
