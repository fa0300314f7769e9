#include "load/own_thread.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/error.h"

namespace sllm {
namespace {

TEST(OwnThread, RunsTheBodyInAnotherThreadThatIsOverAtTheEnd) {
  std::thread::id body;
  int result = 0;
  run_in_own_thread([] {},
                    [&](const Interrupt& interrupt) {
                      interrupt();
                      body = std::this_thread::get_id();
                      result = 7;
                    });
  EXPECT_NE(body, std::thread::id());
  EXPECT_NE(body, std::this_thread::get_id());
  EXPECT_EQ(result, 7);
}

TEST(OwnThread, ThrowsWhatTheBodyThrew) {
  try {
    run_in_own_thread([] {}, [](const Interrupt&) { throw Error(ErrorCode::kCorrupt, "a bad span"); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_STREQ(error.what(), "a bad span");
  }
}

TEST(OwnThread, EndsTheBodyWithWhatTheCallersInterruptThrew) {
  bool is_over = false;
  const auto until_stopped = [&](const Interrupt& interrupt) {
    try {
      while (true) interrupt();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
      is_over = true;
      throw;
    }
  };
  EXPECT_THROW(run_in_own_thread([] { throw std::string("by a signal"); }, until_stopped), std::string);
  EXPECT_TRUE(is_over);
}

}  // namespace
}  // namespace sllm
