//! The status page: one document, with its style and its script, and nothing from elsewhere.

use crate::escape::markup;

const PAGE: &str = include_str!("page.html");

/// Nothing is loaded from anywhere, and this server alone is asked.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
     script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// The page of a mount of this name.
pub(super) fn html(name: &str) -> String {
    PAGE.replace("{{mount}}", &markup(name))
}
