/* hn_device.h - the face of runtime/device: all that other folders and programs include of it. */
#ifndef HN_FACE_DEVICE_H
#define HN_FACE_DEVICE_H
#include "runtime/device/collective.h"
#include "runtime/device/device.h"
#endif
