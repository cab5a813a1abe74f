//! creto-crypto-accel.
