//! A KMS that is somewhere else, for `scripts/distance`: it answers GenerateDataKey and Decrypt as
//! AWS KMS does, each so many milliseconds after it was asked, and is never the slowest part. It has
//! one key, forgets it when it ends, and asks nobody who he is.
//!
//! usage: distance PORT MILLISECONDS

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use data_encoding::BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000001";
const NONCE: usize = 12;

/// The master key.
struct Master(Aes256GcmSiv);

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// The encryption context, as associated data.
fn context(asked: &Value) -> Vec<u8> {
    let pairs: BTreeMap<String, Value> =
        serde_json::from_value(asked["EncryptionContext"].clone()).unwrap_or_default();
    json!(pairs).to_string().into_bytes()
}

impl Master {
    /// The answer to one operation; `None` where it is refused.
    fn answer(&self, operation: &str, asked: &Value) -> Option<Value> {
        let aad = &context(asked);
        match operation {
            "GenerateDataKey" => {
                let (key, nonce) = (random::<32>(), random::<NONCE>());
                let payload = Payload { msg: &key, aad };
                let mut wrapped = nonce.to_vec();
                wrapped.extend(self.0.encrypt(&Nonce::from(nonce), payload).ok()?);
                let (plain, blob) = (BASE64.encode(&key), BASE64.encode(&wrapped));
                Some(json!({ "CiphertextBlob": blob, "Plaintext": plain, "KeyId": ARN }))
            }
            "Decrypt" => {
                let wrapped = BASE64.decode(asked["CiphertextBlob"].as_str()?.as_bytes()).ok()?;
                let (nonce, msg) = wrapped.split_first_chunk::<NONCE>()?;
                let key = self.0.decrypt(&Nonce::from(*nonce), Payload { msg, aad }).ok()?;
                Some(json!({ "Plaintext": BASE64.encode(&key), "KeyId": ARN }))
            }
            _ => None,
        }
    }
}

async fn serve(
    request: Request<Incoming>,
    master: Arc<Master>,
    delay: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").and_then(|v| v.to_str().ok());
    let operation = target.and_then(|t| t.rsplit('.').next()).unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let asked = body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    tokio::time::sleep(delay).await;
    let answer = master.answer(&operation, &asked);
    let status = if answer.is_some() { 200 } else { 400 };
    let body = answer.unwrap_or(json!({ "__type": "InvalidCiphertextException" })).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status.try_into().expect("both are statuses");
    Ok(response)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().collect();
    let [_, port, delay] = &words[..] else {
        return Err("usage: distance PORT MILLISECONDS".into());
    };
    let (port, delay) = (port.parse()?, Duration::from_millis(delay.parse()?));
    let master = Arc::new(Master(Aes256GcmSiv::new(&random::<32>().into())));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = tokio::net::TcpListener::bind(at).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            let master = master.clone();
            let service = service_fn(move |request| serve(request, master.clone(), delay));
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away ends its connection, and nothing else.
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    })
}
