// One block of CUDA threads as fibers on a single CPU thread: each has a stack of its own and runs until it waits for others.
//
// `seed` decides who goes on. Threads that wait in vain, or meet others that wait at another line, end the block with a Violation.
// Under -fsanitize=thread the fibers are threads to the sanitizer, ordered by the barriers of block and warp and by nothing else: a race between
// two of them is an error at its line, in whatever order they ran.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char*, int), AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int), AnnotateIgnoreWritesEnd(const char*, int);
#define TSAN(...) __VA_ARGS__
#else
#define TSAN(...)
#endif

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned count() const { return x * y * z; }
  dim3 at(unsigned i) const { return {i % x, i / x % y, i / x / y}; }
};
inline dim3 blockIdx, blockDim, gridDim;
#define threadIdx emulator::block.index()

namespace emulator {

struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr unsigned kWarp = 32;

// While it lives the thread sanitizer looks away: how values get from fiber to fiber is not the kernel's business.
struct [[maybe_unused]] Quiet {
  Quiet() { TSAN(AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);) }
  ~Quiet() { TSAN(AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0);) }
};

class Block {
 public:
  uint64_t seed = 0;  // even: who was woken last goes on, so that warps run far apart; odd: anybody

  // Runs kernel on every thread of the block at blockIdx, of size blockDim.
  void run(const std::function<void()>& kernel) {
    kernel_ = &kernel, threads_ = blockDim.count(), waiting_ = returned_ = 0;
    while (fibers_.size() < threads_) fibers_.push_back(std::make_unique<Fiber>(static_cast<unsigned>(fibers_.size())));
    warps_.assign((threads_ + kWarp - 1) / kWarp, {});
    problem_.clear(), ready_.clear();
    random_.seed(static_cast<unsigned>(seed));
    for (unsigned t = 0; t < threads_; ++t) fibers_[t]->index = blockDim.at(t);
    wake(0, threads_);
    std::shuffle(ready_.begin(), ready_.end(), random_);
    TSAN(__tsan_release(&begin_);)
    go(host_, *pick());
    TSAN(__tsan_acquire(&end_);)
    if (problem_.empty()) return;
    fibers_.clear();  // they stand somewhere inside the kernel
    throw Violation(problem_);
  }

  void barrier(const char* where) {
    const Quiet quiet;
    TSAN(void* meeting = &meeting_[barriers_ % 2]; __tsan_release(meeting);)  // two in turn: nobody is two barriers ahead
    current_->state = "wait at the barrier in ", current_->where = where;
    if (++waiting_ == threads_) waiting_ = 0, ++barriers_, wake(0, threads_);
    yield();
    TSAN(__tsan_acquire(meeting);)
  }

  // Each lane of the warp brings 8 bytes and leaves with everybody's.
  const uint64_t* meet(const char* where, unsigned mask, uint64_t value) {
    const Quiet quiet;
    Warp& warp = warps_[current_->number / kWarp];
    if (mask != 0xffffffffu) give_up("partial masks are not emulated");
    current_->state = "wait at the collective in ", current_->where = where;
    warp.brought[lane()] = value;
    if (++warp.arrived == kWarp) {
      warp.arrived = 0;
      std::copy_n(warp.brought, kWarp, warp.taken);  // a lane may bring its next value before all have taken this one
      wake(current_->number / kWarp * kWarp, kWarp);
    }
    yield();
    return warp.taken;
  }

  // Each lane of the warp brings an address; the last one to come does the work of all: work(uint64_t addresses[32]).
  template <class Work>
  void together(const char* where, const void* mine, const Work& work) {
    const Quiet quiet;
    Warp& warp = warps_[current_->number / kWarp];
    current_->state = "wait at the collective in ", current_->where = where;
    warp.brought[lane()] = reinterpret_cast<uintptr_t>(mine);
    if (++warp.arrived == kWarp) {
      warp.arrived = 0;
      work(warp.brought);
      wake(current_->number / kWarp * kWarp, kWarp);
    }
    yield();
  }

  // As the block's barrier, for the warp: the only meeting of lanes that orders what they wrote and read.
  void warp_barrier(const char* where) {
    const Quiet quiet;
    TSAN(Warp& warp = warps_[current_->number / kWarp]; void* meeting = &warp.meeting[warp.barriers % 2]; __tsan_release(meeting);)
    TSAN(if (warp.arrived + 1 == kWarp)++ warp.barriers;)
    meet(where, 0xffffffffu, 0);
    TSAN(__tsan_acquire(meeting);)
  }

  void stop(const std::string& problem) { give_up(problem); }  // in a fiber nothing can be thrown
  unsigned number() const { return current_->number; }
  unsigned lane() const { return current_->number % kWarp; }
  TSAN(__attribute__((noipa, no_sanitize("thread")))) const dim3& index() const { return current_->index; }

 private:
  struct Fiber {
    explicit Fiber(unsigned number) : stack(new char[kStack]), number(number) {
      getcontext(&context);
      context.uc_stack.ss_sp = stack.get(), context.uc_stack.ss_size = kStack;
      makecontext(&context, &Block::live, 0);
      TSAN(sanitizer = __tsan_create_fiber(0);)  // never destroyed: it may end anywhere, and few are made
    }
    Fiber() { TSAN(sanitizer = __tsan_get_current_fiber();) }  // the host
    static constexpr size_t kStack = 64 << 10;
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    jmp_buf place;
    bool started = false;
    unsigned number = 0;
    dim3 index;
    const char *state = "", *where = "";
    TSAN(void* sanitizer;)
  };
  struct Warp {
    unsigned arrived;
    uint64_t brought[kWarp], taken[kWarp];
    TSAN(unsigned barriers; char meeting[2];)
  };

  static void live();

  void wake(unsigned first, unsigned count) {
    const char* where = fibers_[first]->where;
    for (unsigned t = first; t < first + count; ++t) {
      if (fibers_[t]->where != where && std::strcmp(fibers_[t]->where, where)) give_up("threads meet at different places");
      ready_.push_back(fibers_[t].get());
    }
  }

  Fiber* pick() {
    if (seed % 2) std::swap(ready_[random_() % ready_.size()], ready_.back());
    Fiber* next = ready_.back();
    ready_.pop_back();
    return next;
  }

  void yield() {  // goes on with some thread that can; after the last one, with the host
    Fiber* self = current_;
    if (ready_.empty() && returned_ < threads_) give_up("threads wait for others in vain");
    Fiber* next = ready_.empty() ? &host_ : pick();
    if (next != self) go(*self, *next);
  }

  void give_up(const std::string& problem) {
    std::map<std::string, int> states;
    for (unsigned t = 0; t < threads_; ++t) ++states[std::string(fibers_[t]->state) + fibers_[t]->where];
    problem_ = problem + ", block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + "):";
    for (const auto& [state, count] : states) problem_ += " " + std::to_string(count) + " " + state + ";";
    go(*current_, host_);
  }

  // The sanitizers know swapcontext; it makes a system call, which _longjmp does not.
  __attribute__((noinline)) void go(Fiber& from, Fiber& to) {
    current_ = &to;
    TSAN(__tsan_switch_to_fiber(to.sanitizer, __tsan_switch_to_fiber_no_sync);)
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    swapcontext(&from.context, &to.context);
#else
    if (_setjmp(from.place)) return;
    if (to.started || &to == &host_) _longjmp(to.place, 1);
    to.started = true;
    setcontext(&to.context);
#endif
  }

  const std::function<void()>* kernel_ = nullptr;
  std::minstd_rand random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> ready_;
  std::vector<Warp> warps_;
  Fiber host_;
  Fiber* current_ = nullptr;
  unsigned threads_ = 0, waiting_ = 0, returned_ = 0, barriers_ = 0;
  std::string problem_;
  TSAN(char begin_ = 0, end_ = 0, meeting_[2] = {};)  // their addresses stand for the meetings
};

inline Block block;

inline void Block::live() {  // a fiber runs one kernel after the other
  for (;;) {
    TSAN(__tsan_acquire(&block.begin_);) (*block.kernel_)();
    TSAN(__tsan_release(&block.end_);)
    const Quiet quiet;
    block.current_->state = "have returned", block.current_->where = "";
    ++block.returned_;
    block.yield();
  }
}

}  // namespace emulator
