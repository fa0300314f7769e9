#pragma once

namespace sllm::testing {

// The number under which a peer inherits the descriptor that it is given.
inline constexpr int kPeerDescriptor = 77;

}  // namespace sllm::testing
