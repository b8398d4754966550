// The threads of this process that compute together.
//
// A program is a list of tasks, each cut into chunks. All threads walk through the list in order and take chunks from a
// counter; nobody goes on before all chunks of a task are done, but nobody waits for a *thread*: one that another
// program has pushed off its core between two chunks is not missed, and joins again where the others are. Who waits,
// spins for some microseconds and then sleeps, so that a core is never held by waiting.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <atomic>
#include <cfenv>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() asm volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

struct Task {
  int op, layer;
  uint32_t chunks;
};

// IEEE arithmetic while this exists: to the nearest, small numbers kept. The caller may have asked for another one
// (torch's `set_flush_denormal`), and a thread begins with that of its maker; no bit of a result may depend on either.
class PlainArithmetic {
 public:
  PlainArithmetic() { fegetenv(&before_), fesetenv(FE_DFL_ENV); }
  ~PlainArithmetic() { fesetenv(&before_); }

 private:
  fenv_t before_;
};

// What a thread is asked for: one chunk of a task (its number in the program says which).
typedef void (*Perform)(const Task& task, uint32_t number, uint32_t chunk, int thread);

class Team {
 public:
  // Run a program with so many threads, the caller's among them. One program at a time; a second caller waits.
  void run(const std::vector<Task>& program, int threads, Perform perform) {
    PlainArithmetic arithmetic;
    grow(threads, program.size());
    uint32_t now = generation_.load() + 1;
    perform_ = perform, threads_ = threads, length_ = program.size();
    for (size_t i = 0; i < program.size(); i++) {
      Slot& slot = slots_[i];
      // Closed first: a thread that looked at the ticket of an earlier program must not take a chunk of this one.
      slot.ticket.store((uint64_t)now << 32 | UINT32_MAX);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      slot.task = program[i], slot.chunks = program[i].chunks, slot.done = 0;
      slot.ticket.store((uint64_t)now << 32, std::memory_order_release);
    }
    generation_.store(now);
    generation_.notify_all();
    walk(now, 0);
  }

  std::mutex busy;  // held by the caller of `run` and while its data are prepared

 private:
  struct alignas(64) Slot {
    std::atomic<uint64_t> ticket{0};  // generation and the next chunk: a late thread cannot take one of a later program
    std::atomic<uint32_t> done{0}, chunks{0};
    Task task{};
  };
  static constexpr int SPINS = 1000;  // tens of microseconds

  void walk(uint32_t now, int thread) {
    Slot* slots = slots_;
    for (uint32_t i = 0, length = length_; i < length; i++)
      if (!take_chunks(slots[i], i, now, thread) || !wait(slots[i], now)) return;
  }

  // Compute chunks until none is left; false where the program is over.
  bool take_chunks(Slot& slot, uint32_t number, uint32_t now, int thread) {
    for (;;) {
      uint64_t ticket = slot.ticket.load(std::memory_order_acquire);
      if ((uint32_t)(ticket >> 32) != now) return false;
      uint32_t chunk = (uint32_t)ticket, chunks = slot.chunks.load(std::memory_order_relaxed);
      if (chunk >= chunks) return true;
      if (!slot.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
      perform_(slot.task, number, chunk, thread);
      if (slot.done.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) slot.done.notify_all();
    }
  }

  bool wait(Slot& slot, uint32_t now) {
    for (int spin = 0;; spin++) {
      uint32_t done = slot.done.load(std::memory_order_acquire);
      if (done >= slot.chunks.load(std::memory_order_relaxed)) return true;
      if (generation_.load(std::memory_order_relaxed) != now) return false;
      if (spin < SPINS) PAUSE();
      else slot.done.wait(done, std::memory_order_acquire);
    }
  }

  void work(int thread) {
    fesetenv(FE_DFL_ENV);
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; spin++) {
        if (spin < SPINS) PAUSE();
        else generation_.wait(seen);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (thread < threads_) walk(seen, thread);
    }
  }

  // Threads and slots are only ever added: a late thread may still look at what an earlier program used. One that has
  // the slots of an earlier program and the length of a later one stops at the slot behind the last: nobody uses it.
  void grow(int threads, size_t length) {
    if (length > capacity_) {
      slots_ = new Slot[2 * length + 1];
      capacity_ = 2 * length;
    }
    sigset_t all, before;  // signals are for the threads of Python
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; workers_ < threads - 1; workers_++) std::thread(&Team::work, this, workers_ + 1).detach();
    } catch (...) {  // no more threads to be had: those that are there do the work
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  std::atomic<uint32_t> generation_{0}, length_{0};
  std::atomic<Slot*> slots_{nullptr};
  std::atomic<Perform> perform_{nullptr};
  std::atomic<int> threads_{0};
  size_t capacity_ = 0;
  int workers_ = 0;
};

// The team of this process. A child after a fork has none of the threads, so it begins with a team of its own; teams
// are never destroyed, so nothing is waited for at exit.
static Team* team = new Team;
