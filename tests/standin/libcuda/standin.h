/* What the parts of the stand-in driver share. No CUDA header is needed: the ABI used is declared here and in the parts.

   One lock guards everything; it is let go only while a callback of the TensorRT stand-in runs. */
#pragma once
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))
#define LOCKED __attribute__((cleanup(unlock), unused)) int guard = lock()
#define TRY(call) do { int code_ = (call); if (code_) return code_; } while (0)

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_MERGE = 902, CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908,
};
enum { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };

typedef uint64_t Address; /* CUdeviceptr */
typedef int (*Callback)(void *);
typedef struct Context Context;
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Capture Capture;
typedef struct Exec Exec;

typedef enum { TO_DEVICE, TO_HOST, ON_DEVICE, FILL, CALL, RECORD, WAIT, LAUNCH } Kind;

/* One piece of work, queued on a stream or recorded in a graph. */
typedef struct Op {
    Kind kind;
    uint64_t sequence;          /* its place in the order in which all work was queued */
    Address to, from;
    char *host;                 /* pinned; or `owned`, a copy of pageable memory */
    int owned;
    size_t bytes;
    unsigned value;
    int width;                  /* FILL: bytes of the pattern */
    Callback call;
    void *argument;
    Event *event;
    uint64_t version;           /* RECORD, WAIT: which record of the event */
    Exec *exec;
    struct Op *next;
} Op;

struct Context { int device, retained, sticky; unsigned flags; Stream *null_stream; };
struct Stream { int live, non_blocking, is_null, busy; unsigned flags; Context *context; Op *head, *tail; Capture *capture; int joined; };
struct Event { int live; unsigned flags; Context *context; uint64_t recorded, done; double seconds; Stream *stream; Capture *capture; };
struct Capture { int mode, invalid, ended; pthread_t thread; Stream *origin; Op *head, *tail; };
typedef struct Graph { int live; Op *ops; } Graph;
struct Exec { int live, uses; Context *context; Op *ops; };

/* Everything a test may ask for by name; see standin_count. */
extern struct Counters {
    long device_bytes, device_allocations, pinned_bytes, pinned_allocations, streams, events, graphs, execs, contexts;
    long launches, calls, copies, leaked_bytes, leaked_objects;
} counters;

/* state.c */
int lock(void);
void unlock(int *unused);
extern pthread_mutex_t mutex;
extern pthread_cond_t idle;
/* context.c */
int current(Context **context);
/* memory.c */
char *device_at(Address address, size_t bytes);     /* where the stand-in keeps these bytes; NULL: not (all) allocated */
int pinned_at(const char *host, size_t bytes);      /* 1: pinned, 0: pageable, -1: pinned in part */
void free_memory_of(Context *context);
/* stream.c */
Stream *stream_of(Context *context, void *handle);
Stream *new_stream(Context *context, unsigned flags, int is_null);
void *stream_handle(Stream *stream);
int enqueue(Stream *stream, Op op);
int drain(Stream *stream, uint64_t until);
void drain_context(Context *context, int wait);
int legacy_barrier(Context *context);               /* what a copy without a stream waits for */
Stream *next_captured(Capture *capture, size_t *index);
void forget_streams_of(Context *context);
void free_ops(Op *ops);
/* event.c */
Event *event_of(Context *context, void *handle);
void forget_events_of(Context *context);
/* graph.c */
int unsafe(void);                                   /* an error where an open capture does not bear this call; it is invalid then */
int capturing(Context *context);                    /* likewise for a call that would wait for all of the context */
void release_exec(Exec *exec);
void forget_execs_of(Context *context);
