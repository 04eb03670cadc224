//! What logs, metrics and traces cost, each alone and all of them: of two gateways that take turns, one says nothing. The
//! collector and the scraper run on this machine too.

use axum::routing::post;
use tokio::net::TcpListener;

use super::Stage;
use super::support::{Scratch, TOLLGATE};
use super::turns::{Setup, compare, print_head};

pub(super) async fn run(stage: &Stage, scratch: &Scratch, url: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/v1/traces", post(async |_: bytes::Bytes| ()));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    let traces = format!("telemetry.otlp_endpoint = \"http://{collector}\"\ntelemetry.protocol = \"http\"\n");
    let every = format!("{traces}telemetry.sample_ratio = 1.0\n");
    let silent = "log.level = \"error\"\n";
    print_head();
    for (name, scraped, more) in [
        ("all of them", true, traces.as_str()),
        ("logs alone", false, ""),
        ("scrapes alone", true, silent),
        ("traces as by default alone", false, &format!("{silent}{traces}")),
        ("all, and every trace", true, &every),
    ] {
        let setup = |name, scraped, more| Setup { name, binary: TOLLGATE, scraped, more };
        compare(stage, scratch, url, [setup("off", false, silent), setup(name, scraped, more)]).await;
    }
}
