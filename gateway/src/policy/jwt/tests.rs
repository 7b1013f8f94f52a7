//! Table tests of the whole policy.
