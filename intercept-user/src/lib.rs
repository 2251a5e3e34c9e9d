//! intercept-user
