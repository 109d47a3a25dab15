//! `kmsfs info`.

use std::path::Path;

use crate::console::failure::Failure;
use crate::console::options::Output;
use crate::console::printing::say;
use crate::store::Store;

/// What a recovery is, beside a kill switch.
pub(super) fn reads_anyway(recipients: usize) -> String {
    let whom = if recipients == 1 { "recipient reads" } else { "recipients read" };
    format!("{recipients} age {whom} it whatever the KMS says")
}

/// Runs `info`.
///
/// # Errors
/// [`Failure`].
pub fn run(path: &Path, output: Output) -> Result<(), Failure> {
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    let file = store.read_volume().map_err(|e| Failure::store(path, &e))?;
    let s = &file.settings;
    let provider = &file.wrap.source.provider;
    let (provider, place) = (provider.name(), provider.place());
    let recipients = s.recipients();
    if output == Output::Json {
        let json = serde_json::json!({
            "volume": s.volume().to_string(),
            "names": s.names,
            "data_keys": s.data_keys,
            "only_current_key": s.only_current_key,
            "recovery": recipients,
            "provider": provider,
            "place": place,
            "asked": file.wrap.source.asked.0,
            "master": file.wrap.source.master.0,
        });
        say!("{json}");
        return Ok(());
    }
    say!("volume      {}", s.volume());
    say!("names       {:?}", s.names);
    say!("data keys   {}", s.data_keys.name());
    if s.only_current_key {
        say!("files       under any other key than the present one are refused");
    }
    if !recipients.is_empty() {
        say!("recovery    {}", reads_anyway(recipients.len()));
        recipients.iter().for_each(|text| say!("            {text}"));
    }
    say!("provider    {provider} ({place})");
    say!("master key  {} ({})", file.wrap.source.master, file.wrap.source.asked);
    Ok(())
}
