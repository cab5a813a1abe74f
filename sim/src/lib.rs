//! creto-sim.
