#pragma once

#include <unistd.h>

#include <mutex>
#include <string>
#include <vector>

#include "cuda_sim/simulator.h"

// What every function of the driver begins with.
namespace cuda_sim {

using Lock = std::unique_lock<std::mutex>;

// The contexts that this thread made current; the last one is.
inline std::vector<Context*>& context_stack() {
  thread_local std::vector<Context*> stack;
  return stack;
}

struct Call {
  Simulator& simulator;
  Lock& lock;
  const char* function;
  Result fault;  // with which it ends

  Result refuse(Result code, const std::string& text) {
    return simulator.refuse(code, std::string(function) + ": " + text);
  }
};

struct ContextCall : Call {
  Context& context;
  Device& device() { return simulator.devices[static_cast<std::size_t>(context.device)]; }
};

// Not where nobody called cuInit, nor in a child forked since; it must not touch the lock, which another
// thread may have held when the child was forked.
inline bool is_started(Simulator& simulator) {
  const pid_t process = simulator.process.load(std::memory_order_relaxed);
  if (process != 0 && process != ::getpid())
    simulator.calls_after_fork.fetch_add(1, std::memory_order_relaxed);
  return process == ::getpid();
}

// Anything that needs no context: body(Call&) -> Result.
template <typename Body>
Result enter(const char* function, Body&& body) {
  Simulator& simulator = Simulator::get();
  if (!is_started(simulator)) return Result::kNotInitialized;
  Lock lock(simulator.mutex);
  const Result fault = simulator.fault_of(function);
  if (fault != Result::kSuccess) return fault;
  Call call{simulator, lock, function, fault};
  return body(call);
}

// Anything that gives back or waits: a fault on request is returned once that is done.
template <typename Body>
Result enter_to_end(const char* function, Body&& body) {
  Simulator& simulator = Simulator::get();
  if (!is_started(simulator)) return Result::kNotInitialized;
  Lock lock(simulator.mutex);
  const Result fault = simulator.fault_of(function);
  Call call{simulator, lock, function, fault};
  const Result result = body(call);
  return fault != Result::kSuccess ? fault : result;
}

// body(ContextCall&), where there is a current context.
template <typename Body>
Result with_context(Call& call, Body&& body) {
  const auto& stack = context_stack();
  if (stack.empty()) return call.refuse(Result::kInvalidContext, "no context is current");
  if (stack.back()->retained == 0)
    return call.refuse(Result::kInvalidContext, "the current context has ended");
  ContextCall in_context{call, *stack.back()};
  return body(in_context);
}

// As enter(), in a context that had no error.
template <typename Body>
Result enter_context(const char* function, Body&& body) {
  return enter(function, [&](Call& call) {
    return with_context(call, [&](ContextCall& in_context) {
      const Result error = in_context.context.error();
      return error != Result::kSuccess ? error : body(in_context);
    });
  });
}

// As enter_to_end(), in a context whose error, if it has one, is returned at the end.
template <typename Body>
Result enter_context_to_end(const char* function, Body&& body) {
  return enter_to_end(function, [&](Call& call) {
    return with_context(call, [&](ContextCall& in_context) {
      const Result result = body(in_context);
      const Result error = in_context.context.error();
      return error != Result::kSuccess ? error : result;
    });
  });
}

// Waits for the mark without the lock, then notes what is over by that.
inline void wait_for(Call& call, const std::shared_ptr<Mark>& mark) {
  call.lock.unlock();
  mark->wait();
  call.lock.lock();
  call.simulator.note_done(*mark);
}

}  // namespace cuda_sim

// The driver's functions, defined in calls_*.cpp.
extern "C" {
#define CUDA_SIM_DECLARE(symbol, ...) \
  __attribute__((visibility("default"))) ::sllm::cuda::Result symbol(__VA_ARGS__);
SLLM_CUDA_FUNCTIONS(CUDA_SIM_DECLARE)
// Those that the product does not use, and torch or a test may.
CUDA_SIM_DECLARE(cuDeviceTotalMem_v2, std::size_t* bytes, ::sllm::cuda::Ordinal device)
CUDA_SIM_DECLARE(cuDevicePrimaryCtxGetState, ::sllm::cuda::Ordinal device, unsigned* flags, int* is_active)
CUDA_SIM_DECLARE(cuCtxGetCurrent, ::sllm::cuda::Context* context)
CUDA_SIM_DECLARE(cuCtxSetCurrent, ::sllm::cuda::Context context)
CUDA_SIM_DECLARE(cuCtxGetDevice, ::sllm::cuda::Ordinal* device)
CUDA_SIM_DECLARE(cuStreamQuery, ::sllm::cuda::Stream stream)
#undef CUDA_SIM_DECLARE
}
