/* The private key file's form, written by keyring_dev.c and read by identity.c. Private to wire.
 *   stagebridge-key-v1
 *   sign <64 hex digits: Ed25519 seed>
 *   box <64 hex digits: X25519 secret key>
 */
#ifndef SB_WIRE_KEY_FILE_H
#define SB_WIRE_KEY_FILE_H

#define SB_KEY_FILE_HEAD "stagebridge-key-v1\nsign "
#define SB_KEY_FILE_BOX  "\nbox "
#define SB_KEY_FILE_SIZE (sizeof(SB_KEY_FILE_HEAD) - 1 + 64 + sizeof(SB_KEY_FILE_BOX) - 1 + 64 + 1)

#endif
