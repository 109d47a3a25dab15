//! A filesystem in memory whose crash states can be listed.
