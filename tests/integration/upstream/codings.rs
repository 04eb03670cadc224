//! Answers of the vendor with a content coding that nobody has asked for.

use serde_json::json;

use crate::support::edge::{Coding, Edge, Encode};
use crate::support::gateway::{TestGateway, body};

async fn behind_an_edge() -> (TestGateway, Edge) {
    let edge = Edge::start().await;
    let address = edge.address;
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.upstream.kling_3.base_url = format!("http://{address}").parse().unwrap();
        })
        .start()
        .await;
    edge.lead_to(gateway.simulator());
    (gateway, edge)
}

#[tokio::test]
async fn creates_and_status_answers_are_decoded() {
    let (gateway, edge) = behind_an_edge().await;
    let codings = [
        Coding::of("gzip", Encode::Gzip),
        Coding::of("GZIP", Encode::Gzip),
        Coding::of("x-gzip", Encode::Gzip),
        Coding::of("gzip, identity", Encode::Gzip),
        Coding::of("identity,x-gzip", Encode::Gzip),
        Coding::of("deflate", Encode::Deflate),
        Coding::of("br", Encode::Brotli),
        Coding::of("zstd", Encode::Zstd),
        Coding::of("identity", Encode::Nothing),
    ];
    for coding in codings {
        edge.set(coding);
        let created = gateway.create(&body(&format!("{coding:?}"))).await;
        assert_eq!(created.status, 200, "{coding:?}: {created:?}");
        let ended = gateway.finished(&created.task_id()).await;
        assert_eq!(ended.data()["status"], "SUCCESS", "{coding:?}");
    }
    let spent = 400 * codings.len() as i64;
    assert_eq!(gateway.balance().await, [1_000_000 - spent, 0, spent]);
    let asked = edge.asked();
    assert!(asked.iter().all(|asked| asked == "identity"), "{asked:?}");
}

#[tokio::test]
async fn a_compressed_answer_of_any_size_is_read_as_it_is_decoded() {
    let (gateway, edge) = behind_an_edge().await;
    edge.set(Coding::of("gzip", Encode::Gzip));
    gateway.fault_on_create(json!({"kind": "huge", "bytes": 1_000_000})).await;
    gateway.create(&body("large")).await.expect(200);
    // 26 MB in some 26 KB: more than is kept, so only its figures are.
    gateway.fault_on_create(json!({"kind": "huge", "bytes": 26_000_000})).await;
    let task = gateway.create(&body("very large")).await.task_id();
    assert_eq!(gateway.last_hold().await.upstream_task, Some(task));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_an_answer_that_cannot_be_read() {
    let (gateway, edge) = behind_an_edge().await;
    for coding in [
        Coding::of("gzip", Encode::Nothing),
        Coding::of("br", Encode::Gzip),
        Coding::of("compress", Encode::Gzip),
        Coding::of("gzip, gzip", Encode::Gzip),
        Coding::of("deflate", Encode::RawDeflate),
        Coding { cut: true, ..Coding::of("gzip", Encode::Gzip) },
        Coding { cut: true, ..Coding::of("zstd", Encode::Zstd) },
    ] {
        edge.set(coding);
        let answer = gateway.create(&body(&format!("{coding:?}"))).await;
        assert_eq!(answer.status, 504, "{coding:?}: {answer:?}");
        assert_eq!(gateway.last_hold().await.state, "IN_DOUBT", "{coding:?}");
    }
}
