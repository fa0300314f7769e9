#include "load/own_thread.h"

#include <chrono>
#include <future>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"

namespace sllm {
namespace {

// How long the calling thread waits before it looks whether the body should go on.
constexpr std::chrono::milliseconds kPatience{50};

std::jthread start(std::packaged_task<void()> task) {
  try {
    return std::jthread(std::move(task));
  } catch (const std::system_error& error) {
    throw error_from_errno(error.code().value(), "cannot start a thread for the load");
  }
}

void throw_if_stopped(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(ErrorCode::kCancelled, "the load was ended");
}

}  // namespace

void run_in_own_thread(const Interrupt& interrupt, const std::function<void(const Interrupt&)>& body) {
  std::stop_source stop;
  std::packaged_task<void()> task([&] { body([token = stop.get_token()] { throw_if_stopped(token); }); });
  std::future<void> outcome = task.get_future();
  const std::jthread thread = start(std::move(task));
  try {
    while (outcome.wait_for(kPatience) != std::future_status::ready) interrupt();
  } catch (...) {
    stop.request_stop();
    throw;
  }
  outcome.get();
}

}  // namespace sllm
