//! creto-service.
