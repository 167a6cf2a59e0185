//! The runtime suite on blocking threads.

culex_runtime::runtime_suite!(culex_std::Broker, culex_std::Bound::run);
